SELECT fm_delete_tree($1, $2)
