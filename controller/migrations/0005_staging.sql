-- Preview deployments driven through wrapper executables.

create table staging_project (
    name text primary key,
    base_domain text not null,
    namespace text not null,
    wrappers text not null,
    agents text not null,
    check_interval_seconds bigint not null check (check_interval_seconds > 0),
    pending_limit_seconds bigint not null check (pending_limit_seconds > 0),
    timeout_seconds bigint not null check (timeout_seconds > 0),
    memory_bytes bigint not null check (memory_bytes >= 0),
    file_bytes bigint not null check (file_bytes >= 0),
    archived_retention_days bigint check (archived_retention_days > 0),
    owner text not null,
    created_at bigint not null,
    version bigint not null
);

create table staging_staging (
    id text primary key,
    project text not null references staging_project (name),
    name text not null,
    agent_id text references fleet_agent (id) on delete set null,
    tag text not null,
    -- Tag and overrides with their values, sealed; and the same without secrets, to be shown.
    settings_sealed bytea not null,
    settings_masked text not null,
    status text not null
        check (status in ('Running', 'Failure', 'CreatePending', 'UpdatePending', 'DeletePending', 'Archived')),
    status_at bigint not null,
    status_why text not null,
    -- The operation that is pending, or empty.
    operation_id text not null,
    -- Which wrapper is run again and again, and the operation it began after; empty when none.
    watch text not null check (watch in ('', 'check', 'archive_check')),
    watch_after text not null,
    created_at bigint not null,
    updated_at bigint not null,
    archived_at bigint,
    retention_warned_at bigint,
    owner text not null,
    version bigint not null,
    unique (project, name)
);
create index staging_staging_agent on staging_staging (agent_id);
create index staging_staging_status on staging_staging (status, status_at);

-- One row an operation: the action log. It outlives its staging.
create table staging_operation (
    id text primary key,
    staging_id text not null,
    project text not null,
    name text not null,
    agent_id text not null,
    verb text not null check (verb in ('create', 'update', 'delete', 'restore', 'cleanup')),
    outcome text not null check (outcome in
        ('', 'succeeded', 'failed', 'refused', 'timed_out', 'cancelled', 'interrupted', 'late', 'lost')),
    actor text not null,
    source text not null,
    requested_at bigint not null,
    cancelled_by text not null,
    started_at bigint,
    ended_at bigint,
    exit_code bigint,
    signal bigint,
    message text not null,
    settings_masked text not null,
    -- What to go back to when the operation is refused before it changed anything.
    previous_status text not null,
    previous_sealed bytea,
    previous_masked text not null
);
create index staging_operation_staging on staging_operation (staging_id, id);
create index staging_operation_end on staging_operation (ended_at);
