-- Where what belongs to one network as a whole is to stand: on the host of an agent, or, without one, on the controller's.
create table network_home (
    network_id text primary key references network_network (id) on delete cascade,
    agent_id text references fleet_agent (id) on delete set null
);
create index network_home_agent on network_home (agent_id);

insert into network_home (network_id) select id from network_network;
