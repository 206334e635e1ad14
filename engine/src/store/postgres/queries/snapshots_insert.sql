INSERT INTO fm_snapshots (parent_id, join_no, outer_parent, outer_join, spec, context, items)
SELECT * FROM unnest($1::uuid[], $2::int8[], $3::uuid[], $4::int8[], $5::text[], $6::text[], $7::text[])
