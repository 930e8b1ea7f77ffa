-- name: free_pages
PRAGMA freelist_count

-- name: give_page_back
PRAGMA incremental_vacuum(1)
