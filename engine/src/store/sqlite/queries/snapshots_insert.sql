INSERT INTO fm_snapshots (parent_id, join_no, outer_parent, outer_join, spec, context, items)
SELECT unhex(value ->> 'parent'), value ->> 'join', unhex(value ->> 'outerParent'), value ->> 'outerJoin',
    value ->> 'spec', value ->> 'context', value ->> 'items'
FROM json_each(?1)
