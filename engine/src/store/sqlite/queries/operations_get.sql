SELECT operation FROM fm_operations WHERE id = ?1
