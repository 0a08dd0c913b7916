-- Pipelines of tasks on pools of nodes.

create table experiment_experiment (
    id text primary key,
    -- The user's name; a deleted experiment keeps it until its retention is over.
    owner text not null,
    name text not null,
    status text not null
        check (status in ('preparing', 'ready', 'running', 'cancelling', 'finished', 'cancelled', 'failed')),
    status_at bigint not null,
    why text not null,
    -- What was asked for, to tell a repeat from another experiment of the same name.
    digest text not null,
    -- For connectors, JSON as it came.
    context text not null,
    -- Access tags of its owner when it was asked for: JSON.
    tags text not null,
    created_at bigint not null,
    ready_at bigint,
    started_at bigint,
    ended_at bigint,
    cancelled_by text not null,
    -- Starts by itself as soon as it is ready.
    starts bigint not null check (starts in (0, 1)),
    deleted_at bigint,
    version bigint not null
);
create unique index experiment_experiment_name on experiment_experiment (owner, name) where deleted_at is null;
create index experiment_experiment_open on experiment_experiment (id) where ended_at is null;
create index experiment_experiment_created on experiment_experiment (created_at);

-- One row a deployment; its id is its executor's.
create table experiment_deployment (
    id text primary key,
    experiment_id text not null references experiment_experiment (id) on delete cascade,
    place bigint not null,
    connector text not null,
    node_name text not null,
    agent_id text references fleet_agent (id) on delete set null,
    -- What the client is given back, without what changes: JSON.
    document text not null,
    environment_digest text not null,
    -- SHA-256 of the graph; empty for a native pipeline.
    graph text not null,
    -- A native pipeline: JSON; empty for a graph.
    pipeline text not null,
    keep_alive_minutes bigint not null check (keep_alive_minutes > 0),
    cleanup bigint not null check (cleanup in (0, 1)),
    -- Nodes that had it before and were given up.
    moved bigint not null check (moved >= 0),
    stage text not null check (stage in ('waiting', 'deploying', 'deployed', 'starting', 'running', 'ended')),
    outcome text not null check (outcome in
        ('', 'succeeded', 'failed', 'not_deployed', 'cancelled', 'timed_out', 'interrupted', 'lost', 'moved')),
    message text not null,
    cancelled_by text not null,
    -- Given up while its node was away: its end may yet be heard of.
    given_up bigint not null check (given_up in (0, 1)),
    deployed_at bigint,
    started_at bigint,
    ended_at bigint,
    -- SHA-256 of what the executor reported; empty without a report.
    result text not null,
    result_late bigint not null check (result_late in (0, 1)),
    -- Native pipelines: the tasks' runs, JSON.
    runs text not null,
    unique (experiment_id, place)
);
create index experiment_deployment_agent on experiment_deployment (agent_id);
create index experiment_deployment_given_up on experiment_deployment (experiment_id) where given_up = 1;

-- An experiment that an administrator's postprocessors are told of.
create table experiment_post (
    experiment_id text primary key references experiment_experiment (id) on delete cascade,
    tries bigint not null check (tries >= 0),
    -- When they are told next; null: not any more.
    due_at bigint,
    -- When all of them were told; null: they were not.
    told_at bigint,
    -- What they said.
    message text not null,
    -- Why the last try failed.
    error text not null
);
create index experiment_post_due on experiment_post (due_at) where due_at is not null;

-- A node is taken by one user at a time, for as many experiments of theirs as `holders` says.
create table experiment_lock (
    connector text not null,
    node_name text not null,
    owner text not null,
    reason text not null,
    since bigint not null,
    holders bigint not null check (holders > 0),
    primary key (connector, node_name)
);

create table experiment_flag (
    experiment_id text not null references experiment_experiment (id) on delete cascade,
    name text not null,
    text_value text,
    int_value bigint not null,
    at bigint not null,
    primary key (experiment_id, name)
);

-- Every change of a flag; one request changes it once, however often it arrives.
create table experiment_flag_change (
    experiment_id text not null references experiment_experiment (id) on delete cascade,
    request_id text not null,
    name text not null,
    text_value text,
    int_value bigint not null,
    -- `user/<name>` or `executor/<id>`.
    changed_by text not null,
    at bigint not null,
    primary key (experiment_id, request_id)
);
create index experiment_flag_change_name on experiment_flag_change (experiment_id, name, at);

-- What a user wants of experiments; without a row, the defaults.
create table experiment_setting (
    owner text primary key,
    -- Whether netunicorn's clients are given graphs unless they ask otherwise.
    graphs bigint not null check (graphs in (0, 1))
);

-- What deployments run in, by the digest of what defines it. An image without a name is built once for its architecture.
create table experiment_environment (
    digest text primary key,
    -- linux/amd64 and the like.
    platform text not null,
    -- `local`: each node makes it for itself.
    state text not null check (state in ('local', 'waiting', 'building', 'built', 'failed')),
    -- Who builds it, and the id of the deployment that does so there; empty before the first.
    builder text references fleet_agent (id) on delete set null,
    build text not null,
    -- Builders that went away since it was wanted.
    lost bigint not null,
    -- SHA-256 of the saved image; empty until it is built.
    archive text not null,
    archive_bytes bigint not null,
    -- How it stands, in a sentence for those who wait.
    message text not null,
    made_at bigint,
    used_at bigint not null
);
create index experiment_environment_used on experiment_environment (used_at);
create index experiment_environment_open on experiment_environment (digest) where state in ('waiting', 'building');
create index experiment_environment_builder on experiment_environment (builder);
create index experiment_deployment_environment on experiment_deployment (environment_digest) where stage <> 'ended';

-- The agents that made an environment, or were told to.
create table experiment_environment_place (
    digest text not null references experiment_environment (digest) on delete cascade,
    agent_id text not null references fleet_agent (id) on delete cascade,
    used_at bigint not null,
    primary key (digest, agent_id)
);
create index experiment_environment_place_used on experiment_environment_place (used_at);
create index experiment_environment_place_agent on experiment_environment_place (agent_id);
