DELETE FROM fm_joins
WHERE (parent_id, join_no) IN (SELECT parent, number FROM unnest($1::uuid[], $2::int8[]) AS ended (parent, number))
