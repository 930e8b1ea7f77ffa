-- name: free_pages
PRAGMA freelist_count

-- name: give_pages_back
PRAGMA incremental_vacuum(256)
