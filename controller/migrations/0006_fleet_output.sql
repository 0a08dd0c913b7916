-- Whose output is taken of which once work. A row outlives its assignment, since output comes after outcomes; it goes with
-- the output.
create table fleet_output (
    agent_id text not null references fleet_agent (id) on delete cascade,
    kind text not null,
    id text not null,
    primary key (kind, id, agent_id)
);
insert into fleet_output (agent_id, kind, id) select agent_id, kind, id from fleet_assignment where mode = 'once';
