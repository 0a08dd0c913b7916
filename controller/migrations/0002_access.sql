-- Who may use the house: people, their sessions, their tokens.

create table access_user (
    id text primary key,
    name text not null unique,
    role text not null check (role in ('admin', 'operator', 'viewer')),
    password_hash text not null,
    must_change bigint not null check (must_change in (0, 1)),
    disabled bigint not null check (disabled in (0, 1)),
    created_at bigint not null,
    version bigint not null
);

create table access_session (
    id text primary key,
    user_id text not null references access_user (id) on delete cascade,
    secret_hash text not null unique,
    csrf text not null,
    user_agent text not null,
    address text not null,
    created_at bigint not null,
    used_at bigint not null,
    expires_at bigint not null
);
create index access_session_user on access_session (user_id);

create table access_token (
    id text primary key,
    user_id text not null references access_user (id) on delete cascade,
    name text not null,
    secret_hash text not null unique,
    role text not null check (role in ('admin', 'operator', 'viewer')),
    created_at bigint not null,
    used_at bigint,
    expires_at bigint,
    unique (user_id, name)
);

-- Failed log-ins, for the limit on their rate. Rows older than the window are deleted.
create table access_attempt (
    id text primary key,
    name text not null,
    address text not null,
    at bigint not null
);
create index access_attempt_at on access_attempt (at);
