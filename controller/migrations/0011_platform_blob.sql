-- Immutable bytes named by their SHA-256. Small ones lie in their row, larger ones as files of that name.
create table platform_blob (
    digest text primary key,
    size bigint not null check (size >= 0),
    bytes bytea,
    -- When somebody last wanted it kept: one that nobody needs is dropped only some time after.
    stored_at bigint not null
);
create index platform_blob_stored on platform_blob (stored_at);

-- Who needs a blob.
create table platform_blob_use (
    digest text not null references platform_blob (digest),
    owner text not null,
    primary key (digest, owner)
);
create index platform_blob_use_owner on platform_blob_use (owner);

-- Blobs that an assignment lets its agent fetch.
create table fleet_blob_grant (
    agent_id text not null,
    kind text not null,
    id text not null,
    digest text not null,
    primary key (agent_id, kind, id, digest),
    foreign key (agent_id, kind, id) references fleet_assignment (agent_id, kind, id) on delete cascade
);

-- How many bytes of blobs an assignment lets its agent store.
alter table fleet_assignment add column store_bytes bigint not null default 0 check (store_bytes >= 0);
