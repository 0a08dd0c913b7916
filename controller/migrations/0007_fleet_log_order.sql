-- Output is read a page at a time, in the order it came.
create index fleet_log_order on fleet_log (kind, id, attempt, at, stream, begins);
