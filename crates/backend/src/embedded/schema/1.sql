CREATE TABLE meta (
    name  TEXT PRIMARY KEY,
    value ANY
) STRICT, WITHOUT ROWID;

-- Every room id that was ever used, by the log or the directory. Rows stay as tombstones.
CREATE TABLE rooms (
    no          INTEGER PRIMARY KEY,
    id          TEXT NOT NULL UNIQUE,
    forgotten_n INTEGER,                  -- ordinal at which the log was forgotten
    state       INTEGER NOT NULL DEFAULT 0, -- 0: only a log, 1: in the directory, 2: was in the directory
    kind        INTEGER NOT NULL DEFAULT 0, -- 0: public, 1: private, 2: direct
    name        TEXT NOT NULL DEFAULT '',
    topic       TEXT NOT NULL DEFAULT '',
    folded      TEXT NOT NULL DEFAULT '', -- id, name and topic in lower case, for filters
    created_at  INTEGER NOT NULL DEFAULT 0,
    members     INTEGER NOT NULL DEFAULT 0,
    pair_a      TEXT,
    pair_b      TEXT
) STRICT;
CREATE UNIQUE INDEX rooms_pair ON rooms (pair_a, pair_b) WHERE pair_a IS NOT NULL;
CREATE INDEX rooms_forgotten ON rooms (forgotten_n) WHERE forgotten_n IS NOT NULL;

CREATE TABLE users (
    no INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE
) STRICT;

CREATE TABLE events (
    room   INTEGER NOT NULL,
    seq    INTEGER NOT NULL,
    n      INTEGER NOT NULL, -- place in the log of all rooms, in order of commit
    at     INTEGER NOT NULL, -- milliseconds; never falls in a room
    user   INTEGER NOT NULL,
    id     BLOB NOT NULL,
    kind   INTEGER NOT NULL,
    target INTEGER,
    text   TEXT,             -- the words, or the emoji
    extra  TEXT,             -- JSON, whatever has no column
    PRIMARY KEY (room, seq)
) STRICT, WITHOUT ROWID;
-- Ids of version 7 grow with time: with the id first, a group touches the end of this index and little else.
CREATE UNIQUE INDEX events_act ON events (id, room, user);
CREATE UNIQUE INDEX events_n ON events (n);
CREATE INDEX events_target ON events (room, target, kind, seq) WHERE target IS NOT NULL;

CREATE TABLE members (
    room      INTEGER NOT NULL,
    user      TEXT NOT NULL,
    role      INTEGER NOT NULL, -- 0: member, 1: admin, 2: owner
    joined_at INTEGER NOT NULL,
    received  INTEGER NOT NULL DEFAULT 0,
    read      INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (room, user)
) STRICT, WITHOUT ROWID;
CREATE INDEX members_user ON members (user, room);
CREATE INDEX members_owner ON members (room) WHERE role = 2;

CREATE TABLE invites (
    code       TEXT PRIMARY KEY,
    room       INTEGER NOT NULL,
    user       TEXT NOT NULL,
    uses_left  INTEGER NOT NULL,
    expires_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX invites_room ON invites (room);

-- Events that tell a room about a change of the directory, until they are in the log.
CREATE TABLE announcements (
    no   INTEGER PRIMARY KEY AUTOINCREMENT,
    room INTEGER NOT NULL,
    user TEXT NOT NULL,
    id   BLOB NOT NULL UNIQUE,
    kind INTEGER NOT NULL,
    extra TEXT NOT NULL
) STRICT;
CREATE INDEX announcements_room ON announcements (room);
