-- Agents, invitations, and the one thing that is sent: assignments.

create table fleet_invitation (
    id text primary key,
    name text not null,
    class text not null,
    labels text not null,
    secret_hash text not null unique,
    root_sha256 text not null,
    max_uses bigint not null check (max_uses > 0),
    used bigint not null check (used >= 0 and used <= max_uses),
    deadline bigint not null,
    revoked_at bigint,
    -- Readmission: the identity it brings back.
    for_agent text,
    created_by text not null,
    created_at bigint not null
);

create table fleet_agent (
    id text primary key,
    name text not null,
    class text not null,
    labels text not null,
    invitation_id text references fleet_invitation (id),
    enrolled_at bigint not null,
    -- 'ok' or 'revoked', and the event that made it so: revocations reach every replica by this number.
    standing text not null check (standing in ('ok', 'revoked')),
    standing_seq bigint not null,
    revoked_at bigint,
    revoke_reason text not null,
    agent_version text not null,
    facts text not null,
    capabilities text not null,
    capability_digest text not null,
    ledger_id text not null,
    liveness text not null check (liveness in ('never', 'online', 'stale', 'offline')),
    liveness_at bigint not null,
    version bigint not null
);
create index fleet_agent_class on fleet_agent (class, id);
create index fleet_agent_standing on fleet_agent (standing_seq);

create table fleet_label (
    agent_id text not null references fleet_agent (id) on delete cascade,
    key text not null,
    value text not null,
    primary key (agent_id, key)
);
create index fleet_label_value on fleet_label (key, value);

create table fleet_enrolment (
    invitation_id text not null references fleet_invitation (id),
    key_hash text not null,
    agent_id text not null references fleet_agent (id) on delete cascade,
    at bigint not null,
    primary key (invitation_id, key_hash)
);

create table fleet_session (
    agent_id text primary key references fleet_agent (id) on delete cascade,
    replica_id text not null,
    epoch bigint not null,
    token_hash text not null,
    opened_at bigint not null
);

-- Reports of a ledger are acknowledged up to this number.
create table fleet_ledger (
    agent_id text not null references fleet_agent (id) on delete cascade,
    ledger_id text not null,
    acknowledged bigint not null,
    primary key (agent_id, ledger_id)
);

-- Documents lie once, sealed.
create table fleet_document (
    digest text primary key,
    sealed bytea not null,
    -- When it was last put: a document nobody names is dropped only some time after.
    put_at bigint not null
);

create table fleet_assignment (
    agent_id text not null references fleet_agent (id) on delete cascade,
    kind text not null,
    id text not null,
    generation bigint not null,
    epoch bigint not null,
    mode text not null check (mode in ('standing', 'once')),
    doc_version bigint not null,
    -- Empty: this generation withdraws the assignment.
    digest text not null,
    on_interrupt text not null check (on_interrupt in ('report', 'rerun')),
    on_revoke text not null check (on_revoke in ('keep', 'stop')),
    start_by bigint not null,
    state text not null check (state in ('queued', 'offered', 'accepted', 'running', 'finished')),
    offered_ledger text not null,
    offered_epoch bigint not null,
    refused_generation bigint not null,
    refused_digest text not null,
    refused_reason text not null,
    refused_message text not null,
    primary key (agent_id, kind, id)
);
create index fleet_assignment_generation on fleet_assignment (generation);
create index fleet_assignment_unsent on fleet_assignment (agent_id) where state in ('queued', 'offered');
create index fleet_assignment_key on fleet_assignment (kind, id);
create index fleet_assignment_digest on fleet_assignment (digest);

create table fleet_report (
    agent_id text not null references fleet_agent (id) on delete cascade,
    kind text not null,
    id text not null,
    ledger_id text not null,
    seq bigint not null,
    epoch bigint not null,
    generation bigint not null,
    phase text not null,
    conditions text not null,
    result bytea not null,
    at bigint not null,
    received_at bigint not null,
    outcome bigint not null check (outcome in (0, 1)),
    may_have_run bigint not null check (may_have_run in (0, 1)),
    attempt bigint not null,
    primary key (agent_id, kind, id)
);
create index fleet_report_key on fleet_report (kind, id);

create table fleet_log (
    kind text not null,
    id text not null,
    attempt bigint not null,
    stream text not null check (stream in ('stdout', 'stderr')),
    -- Where the bytes begin; the pieces of one stream do not overlap.
    begins bigint not null,
    ends bigint not null check (ends > begins),
    -- A piece without bytes marks what was dropped.
    data bytea,
    at bigint not null,
    primary key (kind, id, attempt, stream, begins)
);
