-- The ground: single values, the history, the queue, leases.

create table schema_guard (
    id bigint primary key check (id = 1),
    -- The oldest controller that may run on this schema. Each migration that older ones cannot live with raises it.
    oldest text not null
);
insert into schema_guard (id, oldest) values (1, '0.1.0');

create table setting (
    name text primary key,
    value text not null
);

create table event_head (
    id bigint primary key check (id = 1),
    seq bigint not null
);
insert into event_head (id, seq) values (1, 0);

create table event (
    seq bigint primary key,
    at bigint not null,
    actor text not null,
    source text not null check (source in ('cli', 'console', 'api', 'agent', 'controller')),
    kind text not null,
    subject text not null,
    before_json text,
    after_json text
);
create index event_subject on event (subject, seq);

create table event_seal (
    first bigint primary key,
    last bigint not null unique check (last >= first),
    previous text not null,
    hash text not null,
    at bigint not null,
    dropped bigint not null check (dropped in (0, 1))
);

create table job (
    id text primary key,
    kind text not null,
    dedupe text not null,
    payload text not null,
    run_at bigint not null,
    attempts bigint not null,
    fence bigint not null,
    holder text not null,
    until bigint not null,
    state text not null check (state in ('waiting', 'failed')),
    error text not null
);
create unique index job_dedupe on job (kind, dedupe) where state = 'waiting';
create index job_due on job (state, run_at);

create table lease (
    name text primary key,
    holder text not null,
    fence bigint not null,
    until bigint not null
);

create table replica (
    id text primary key,
    url text not null,
    heartbeat bigint not null
);

-- Answers to creates that carried an Idempotency-Key, kept for a day.
create table idempotency (
    actor text not null,
    key text not null,
    request_hash text not null,
    status bigint not null,
    body text not null,
    at bigint not null,
    primary key (actor, key)
);
