-- Every authority and leaf of the house.

create table certificate_authority (
    id text primary key,
    -- What it serves: 'house' for agents and listeners.
    line text not null,
    role text not null check (role in ('root', 'issuing')),
    parent_id text references certificate_authority (id),
    stage text not null check (stage in ('prepared', 'active', 'former', 'retired')),
    since bigint not null,
    der bytea not null,
    subject_key text not null,
    -- Sealed; null when kept offline.
    sealed_key bytea,
    not_before bigint not null,
    not_after bigint not null,
    generation bigint not null,
    unique (line, role, generation)
);

create table certificate_leaf (
    serial text primary key,
    authority_id text not null references certificate_authority (id),
    -- 'agent/<id>' or 'listener/<replica>'.
    subject text not null,
    key_hash text not null,
    not_before bigint not null,
    not_after bigint not null,
    issued_at bigint not null,
    used_at bigint,
    superseded_at bigint,
    revoked_at bigint,
    der bytea not null
);
create index certificate_leaf_subject on certificate_leaf (subject, issued_at);
create index certificate_leaf_end on certificate_leaf (not_after);

create table certificate_ticket_key (
    id text primary key,
    sealed bytea not null,
    at bigint not null
);
