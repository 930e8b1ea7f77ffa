-- The last inventory that was taken of what a polling runner has; one with a lower number is old news.
CREATE TABLE host_stock (runner TEXT PRIMARY KEY, number INTEGER NOT NULL) WITHOUT ROWID;
