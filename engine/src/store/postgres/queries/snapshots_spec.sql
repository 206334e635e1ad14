SELECT spec, items FROM fm_snapshots WHERE parent_id = $1 AND join_no = $2
