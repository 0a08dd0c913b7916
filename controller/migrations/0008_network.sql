-- Backbones of routers, and the application networks on them.

-- Who joined by an invitation is looked up often.
create index fleet_agent_invitation on fleet_agent (invitation_id);

create table network_backbone (
    id text primary key,
    name text not null unique,
    created_at bigint not null,
    version bigint not null
);

-- Interior sites.
create table network_site (
    id text primary key,
    backbone_id text not null references network_backbone (id),
    name text not null,
    -- Name of its router: stays when the site is renamed.
    router text not null unique,
    -- The invitation by which its agent joins; then that agent.
    invitation_id text references fleet_invitation (id),
    agent_id text unique references fleet_agent (id) on delete set null,
    created_at bigint not null,
    version bigint not null,
    unique (backbone_id, name)
);
create index network_site_invitation on network_site (invitation_id);

create table network_access_point (
    id text primary key,
    site_id text not null references network_site (id),
    name text not null,
    kind text not null check (kind in ('peer', 'member')),
    -- What others dial.
    host text not null,
    -- What is bound; empty: every address.
    bind text not null,
    port bigint not null check (port between 1 and 65535),
    -- As many ports from there on; for members each network has one of its own.
    ports bigint not null check (ports >= 1 and port + ports <= 65536),
    created_at bigint not null,
    version bigint not null,
    unique (site_id, name)
);

create table network_link (
    id text primary key,
    access_point_id text not null references network_access_point (id),
    -- Who makes it.
    site_id text not null references network_site (id),
    cost bigint not null check (cost between 1 and 1000000),
    created_at bigint not null,
    version bigint not null,
    unique (access_point_id, site_id, cost)
);
create index network_link_site on network_link (site_id);

-- Application networks.
create table network_network (
    id text primary key,
    backbone_id text not null references network_backbone (id),
    name text not null unique,
    owner text not null,
    -- Its name to the routers.
    tenant text not null unique,
    starts_at bigint not null,
    ends_at bigint check (ends_at > starts_at),
    delete_delay bigint not null check (delete_delay >= 0),
    -- How far its times have been carried out.
    phase text not null check (phase in ('waiting', 'active', 'ended', 'over')),
    created_at bigint not null,
    version bigint not null
);
create index network_network_backbone on network_network (backbone_id);

create table network_class (
    network_id text not null references network_network (id) on delete cascade,
    name text not null,
    description text not null,
    primary key (network_id, name)
);

create table network_invitation (
    -- Deadline, limit and count are the fleet's.
    id text primary key references fleet_invitation (id),
    network_id text not null references network_network (id) on delete cascade,
    class text not null,
    -- Whether the owner lets each who joins in by hand.
    approval bigint not null check (approval in (0, 1)),
    foreign key (network_id, class) references network_class (network_id, name)
);
create index network_invitation_network on network_invitation (network_id);

-- Where those who join by an invitation hang on the backbone.
create table network_edge_link (
    invitation_id text not null references network_invitation (id) on delete cascade,
    access_point_id text not null references network_access_point (id),
    priority bigint not null check (priority between 1 and 100),
    primary key (invitation_id, access_point_id)
);
create index network_edge_link_point on network_edge_link (access_point_id);

-- The port of an access point that a network has to itself.
create table network_port (
    access_point_id text not null references network_access_point (id),
    network_id text not null references network_network (id) on delete cascade,
    port bigint not null check (port between 1 and 65535),
    primary key (access_point_id, network_id),
    unique (access_point_id, port)
);

-- Sites of application networks.
create table network_member (
    id text primary key,
    network_id text not null references network_network (id) on delete cascade,
    invitation_id text not null references network_invitation (id),
    agent_id text unique references fleet_agent (id) on delete set null,
    name text not null,
    router text not null unique,
    class text not null,
    membership text not null check (membership in ('asking', 'member', 'evicted')),
    joined_at bigint not null,
    evicted_at bigint,
    version bigint not null,
    foreign key (network_id, class) references network_class (network_id, name)
);
-- The name of one that was evicted is free again.
create unique index network_member_name on network_member (network_id, name) where membership <> 'evicted';
create index network_member_invitation on network_member (invitation_id);

-- Where a member hangs on the backbone; at first as its invitation said.
create table network_uplink (
    member_id text not null references network_member (id) on delete cascade,
    access_point_id text not null references network_access_point (id),
    priority bigint not null check (priority between 1 and 100),
    primary key (member_id, access_point_id)
);
create index network_uplink_point on network_uplink (access_point_id);

-- Library.
create table network_service (
    name text primary key,
    protocol text not null check (protocol in ('tcp', 'http', 'http2')),
    default_port bigint not null check (default_port between 1 and 65535),
    description text not null,
    version bigint not null
);

create table network_image (
    name text primary key,
    -- An OCI reference without tag, or the name of an executable.
    reference text not null,
    description text not null,
    version bigint not null
);

create table network_offered_service (
    image text not null references network_image (name) on delete cascade,
    service text not null references network_service (name),
    -- Where the image listens.
    port bigint not null check (port between 1 and 65535),
    primary key (image, service)
);

create table network_required_service (
    image text not null references network_image (name) on delete cascade,
    service text not null references network_service (name),
    primary key (image, service)
);

-- Composition.
create table network_service_link (
    id text primary key,
    network_id text not null references network_network (id) on delete cascade,
    name text not null,
    service text not null references network_service (name),
    address text not null,
    scope text not null check (scope in ('van', 'site', 'instance')),
    distribution text not null check (distribution in ('balanced', 'closest', 'unavailable')),
    version bigint not null,
    unique (network_id, name),
    unique (network_id, address)
);

create table network_endpoint (
    id text primary key,
    network_id text not null references network_network (id) on delete cascade,
    name text not null,
    kind text not null check (kind in ('process', 'ingress', 'egress')),
    -- Allocated to each site of a class, or to one site.
    class text,
    member_id text references network_member (id) on delete cascade,
    image text references network_image (name),
    tag text not null,
    arguments text not null,
    -- Ingresses: what is bound. Egresses: the server outside. Empty where each site names its own.
    host text not null,
    -- Event of its last change.
    generation bigint not null,
    version bigint not null,
    unique (network_id, name),
    check ((class is null) <> (member_id is null)),
    check ((kind = 'process') = (image is not null)),
    foreign key (network_id, class) references network_class (network_id, name)
);
create index network_endpoint_member on network_endpoint (member_id);

-- An endpoint's part in a service link.
create table network_attachment (
    endpoint_id text not null references network_endpoint (id) on delete cascade,
    service_link_id text not null references network_service_link (id),
    part text not null check (part in ('accepts', 'connects')),
    -- 0 where each site names its own.
    port bigint not null check (port between 0 and 65535),
    primary key (endpoint_id, service_link_id)
);
create index network_attachment_link on network_attachment (service_link_id);

-- What participants of a site made of an endpoint.
create table network_decision (
    member_id text not null references network_member (id) on delete cascade,
    endpoint_id text not null references network_endpoint (id) on delete cascade,
    generation bigint not null,
    accepted bigint not null check (accepted in (0, 1)),
    host text not null,
    port bigint not null check (port between 0 and 65535),
    at bigint not null,
    primary key (member_id, endpoint_id)
);

-- Where the profiles of a site stand; one without a row is at its first edition and was never cut.
create table network_profile (
    -- A site's or a member's id.
    owner text not null,
    name text not null,
    edition bigint not null check (edition >= 1),
    cuts bigint not null check (cuts >= 0),
    primary key (owner, name)
);

-- Replacements of the authorities of backbones and networks.
create table network_rotation (
    id text primary key,
    -- 'backbone/<id>' or 'network/<id>'
    line text not null,
    step text not null check (step in ('trust_both', 'leaves', 'drain', 'trust_new', 'cut', 'done')),
    -- Of the sites concerned, where the step goes by levels.
    level bigint not null,
    -- When the step began.
    since bigint not null,
    paused bigint not null check (paused in (0, 1)),
    -- How long transfers under way have to come to their ends, milliseconds.
    drain bigint not null check (drain >= 0),
    -- Sites that were not waited for, as JSON.
    left_behind text not null,
    started_at bigint not null,
    finished_at bigint
);
create unique index network_rotation_open on network_rotation (line) where finished_at is null;
