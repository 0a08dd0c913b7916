-- Which nodes a user may see beside those that are open to everybody: words as a list in JSON; none: all.
alter table access_user add column tags text not null default '[]';
