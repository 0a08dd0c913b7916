-- Connectors: servers that bring nodes which are no agents, and run executors on them.

create table experiment_connector (
    name text primary key,
    url text not null,
    -- Where its executors reach home; empty: where people reach the console.
    gateway text not null,
    -- API key, parameters and the secret of its gateway: JSON.
    sealed bytea not null,
    -- SHA-256 of the secret that its executors know.
    secret_digest text not null unique,
    enabled bigint not null check (enabled in (0, 1)),
    health text not null check (health in ('new', 'well', 'failing')),
    -- Its own words while it is well, else what went wrong.
    why text not null,
    failures bigint not null,
    health_at bigint not null,
    -- When it is looked at again.
    next_at bigint not null,
    created_at bigint not null,
    version bigint not null
);

-- The nodes a connector brought for a user, as they came last: JSON.
create table experiment_pool (
    connector text not null references experiment_connector (name) on delete cascade,
    owner text not null,
    pool text not null,
    at bigint not null,
    primary key (connector, owner)
);

-- What a user tells connectors with a request: JSON by connector, sealed.
create table experiment_context (
    experiment_id text not null references experiment_experiment (id) on delete cascade,
    verb text not null check (verb in ('deploy', 'execute', 'stop')),
    sealed bytea not null,
    primary key (experiment_id, verb)
);

-- An executor that is not on an agent: what its connector is asked, and what is heard of it at the gateway.
create table experiment_remote (
    executor_id text primary key references experiment_deployment (id) on delete cascade,
    experiment_id text not null,
    connector text not null,
    verb text not null check (verb in ('deploy', 'execute', 'stop', 'cleanup')),
    state text not null check (state in ('queued', 'asking', 'done', 'failed')),
    why text not null,
    attempts bigint not null,
    asked_at bigint not null,
    next_at bigint not null,
    -- The replica that asks.
    asked_by text not null,
    -- When anything was heard of it last.
    heard_at bigint,
    -- When it was given its graph first.
    graph_at bigint,
    -- SHA-256 of its newest report; empty without one.
    result text not null,
    -- When its last report came; nothing more is taken.
    final_at bigint,
    too_long bigint not null check (too_long in (0, 1))
);
create index experiment_remote_experiment on experiment_remote (experiment_id);
create index experiment_remote_open on experiment_remote (connector) where state in ('queued', 'asking');
