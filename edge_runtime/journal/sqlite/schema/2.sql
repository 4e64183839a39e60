-- From version 1 to 2: checksums for what is read back at start, and the marks that retention goes by. Frozen.
ALTER TABLE boot ADD COLUMN crc INTEGER;      -- CRC-32 of `intervals`; NULL in rows from version 1
ALTER TABLE snapshot ADD COLUMN crc INTEGER;  -- CRC-32 of `tables`; likewise
CREATE TABLE mark (                -- when `head` was the newest record,
    head   INTEGER PRIMARY KEY,
    bytes  INTEGER NOT NULL,       -- so many bytes of records had ever been stored,
    uptime INTEGER NOT NULL        -- and the gateway had been running for so many microseconds altogether
);
CREATE TABLE running (             -- for how long the gateway has been running altogether, as far as it is known
    id     INTEGER PRIMARY KEY CHECK (id = 0),
    uptime INTEGER NOT NULL
);
INSERT INTO mark SELECT max(first + count) - 1, sum(length(records)), 0 FROM batch HAVING count(*) > 0;
