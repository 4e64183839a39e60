-- Version 1 of the journal's database. Frozen: a change is a new file and a migration.
CREATE TABLE batch (
    first   INTEGER PRIMARY KEY,   -- offset of the first record
    count   INTEGER NOT NULL,
    crc     INTEGER NOT NULL,      -- CRC-32 of `records`
    records BLOB NOT NULL          -- msgpack: an array of records
);
CREATE TABLE boot (                -- which sequences of a device's boot are in the log, as of the snapshot
    device    TEXT NOT NULL,
    boot      BLOB NOT NULL,
    intervals BLOB NOT NULL,       -- msgpack: an array of [first, last]
    PRIMARY KEY (device, boot)
) WITHOUT ROWID;
CREATE TABLE snapshot (            -- the small tables, as of `head`; what came later is read back from `batch`
    id     INTEGER PRIMARY KEY CHECK (id = 0),
    head   INTEGER NOT NULL,
    tables BLOB NOT NULL
);
