-- How often the connections of a profile were made anew. Those from before the round `cuts` are closed.
alter table network_profile add column rounds bigint not null default 0;
update network_profile set rounds = cuts;
