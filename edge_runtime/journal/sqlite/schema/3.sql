-- From version 2 to 3: what functions keep. Frozen.
CREATE TABLE state (               -- as of the snapshot; later changes are read back from `batch`
    flow    TEXT NOT NULL,
    key     TEXT NOT NULL,         -- the partition key
    name    TEXT NOT NULL,
    expires INTEGER NOT NULL,      -- microseconds; 0 for never
    value   TEXT NOT NULL,         -- JSON
    crc     INTEGER NOT NULL,      -- CRC-32 of name, expiry and value
    PRIMARY KEY (flow, key, name)
) WITHOUT ROWID;
CREATE INDEX state_expires ON state (expires) WHERE expires > 0;
