//! What is explored: how much may happen, and which safeguards stand.

/// A configuration of the model. The default is a small one with nothing going wrong.
#[derive(Clone, Debug)]
pub struct Config {
    /// Chat pods, 1 or 2.
    pub pods: u8,
    /// Different messages.
    pub messages: u8,
    /// Requests of clients, over all messages; what is over one each are retries.
    pub sends: u8,
    /// The last generation that may be opened.
    pub generations: u8,
    /// Somebody reads the room.
    pub reader: bool,
    /// Redis does not have the room at the beginning.
    pub cold: bool,
    /// The ids of messages tell no time.
    pub random_ids: bool,
    /// States that differ only in the names of the pods count as one. Halves the work; in a trace the names may change.
    pub symmetry: bool,
    pub faults: Faults,
    pub safeguards: Safeguards,
    pub servers: Servers,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            pods: 2,
            messages: 1,
            sends: 1,
            generations: 0,
            reader: true,
            cold: false,
            random_ids: false,
            symmetry: false,
            faults: Faults::default(),
            safeguards: Safeguards::default(),
            servers: Servers::default(),
        }
    }
}

/// How often each thing may still go wrong, or be slow enough to matter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Faults {
    /// A pod dies and forgets everything.
    pub crashes: u8,
    /// The worker dies between inserting and acknowledging.
    pub worker_crashes: u8,
    /// The broker has a publish, but its publisher never hears of it.
    pub lost_confirms: u8,
    /// `FLUSHALL`: Redis loses everything and keeps its ids and connections.
    pub flushes: u8,
    /// Redis restarts, empty or with an older copy; new ids, connections end.
    pub restarts: u8,
    /// A replica, empty or behind, takes over; the former primary lives on for those who are connected to it.
    pub failovers: u8,
    /// The queue loses its binding to the exchange that is open.
    pub unbinds: u8,
    /// Somebody publishes a pending message of somebody else. (Fences are published like this without limit.)
    pub helps: u8,
    /// Redis trims what is stored and forgets its ids.
    pub ages: u8,
    /// Redis forgets a room of which all is stored.
    pub expiries: u8,
    /// The primary's data is replaced by an older copy: it was a replica for a while.
    pub reloads: u8,
}

/// What the protocol does against all this. Each can be taken away, to see what it is for.
#[derive(Clone, Copy, Debug)]
pub struct Safeguards {
    /// Every generation publishes to an exchange of its own, and a raise deletes those of older generations.
    pub exchange_per_generation: bool,
    /// The older exchanges are deleted before the new generation is open.
    pub old_exchanges_first: bool,
    /// An id that Redis cannot judge is looked up after the fence of the generation is stored.
    pub fence_before_look_up: bool,
    /// What is before a fence is read after the fence is stored.
    pub fence_before_reading_on: bool,
    /// A room is seeded by the last one who took a ticket before reading what is stored.
    pub seed_ticket: bool,
    /// Readers get what is before the first pending event.
    pub confirmed_prefix: bool,
    /// A sender is answered after the broker confirmed.
    pub ack_after_confirm: bool,
    /// Publishes that no queue takes are returned.
    pub mandatory: bool,
    /// Append, ticket and seed refuse a generation that is not the one in Redis.
    pub generation_check: bool,
    /// A room that is of another generation in Redis is seeded before it takes events.
    pub seed_per_generation: bool,
    /// The ids of Redis are compared with the record on every new connection.
    pub verify_redis: bool,
    /// A sender is answered by `safe` of the generation of their event only.
    pub safe_of_generation: bool,
    /// An event is acknowledged and shown only when Redis took the confirm, in the generation of the event.
    pub redis_confirms: bool,
    /// What a look-up found holds for one generation.
    pub look_up_of_generation: bool,
    /// What a look-up found holds for less time than Redis remembers ids.
    pub fresh_look_up: bool,
    /// Where Redis has nothing, nobody is answered because something later is stored.
    pub safe_without_holes: bool,
    /// Whether a range is closed is found out before it is read.
    pub closed_before_reading: bool,
    /// The last seq that is stored is read so that no earlier write is missed.
    pub linearizable_last: bool,
    /// The persisted mark stands before the first event that is not stored.
    pub mark_without_holes: bool,
    /// The worker acknowledges after the insert.
    pub insert_before_ack: bool,
    /// A room expires when all of it is stored.
    pub expire_when_stored: bool,
}

impl Default for Safeguards {
    fn default() -> Self {
        Self {
            exchange_per_generation: true,
            old_exchanges_first: true,
            fence_before_look_up: true,
            fence_before_reading_on: true,
            seed_ticket: true,
            confirmed_prefix: true,
            ack_after_confirm: true,
            mandatory: true,
            generation_check: true,
            seed_per_generation: true,
            verify_redis: true,
            safe_of_generation: true,
            redis_confirms: true,
            look_up_of_generation: true,
            fresh_look_up: true,
            safe_without_holes: true,
            closed_before_reading: true,
            linearizable_last: true,
            mark_without_holes: true,
            insert_before_ack: true,
            expire_when_stored: true,
        }
    }
}

/// A setting by its name.
pub type Named<T, V> = (&'static str, fn(&mut T) -> &mut V);

macro_rules! named {
    ($($name:ident),* $(,)?) => { &[$((stringify!($name), |it| &mut it.$name)),*] };
}

impl Safeguards {
    pub const ALL: &[Named<Self, bool>] = named![
        exchange_per_generation,
        old_exchanges_first,
        fence_before_look_up,
        fence_before_reading_on,
        seed_ticket,
        confirmed_prefix,
        ack_after_confirm,
        mandatory,
        generation_check,
        seed_per_generation,
        verify_redis,
        safe_of_generation,
        redis_confirms,
        look_up_of_generation,
        fresh_look_up,
        safe_without_holes,
        closed_before_reading,
        linearizable_last,
        mark_without_holes,
        insert_before_ack,
        expire_when_stored,
    ];
}

impl Servers {
    pub const ALL: &[Named<Self, bool>] =
        named![broker_agrees, redelivers_in_order, connections_end];
}

impl Faults {
    pub const ALL: &[Named<Self, u8>] = named![
        crashes,
        worker_crashes,
        lost_confirms,
        flushes,
        restarts,
        failovers,
        unbinds,
        helps,
        ages,
        expiries,
        reloads,
    ];
}

impl Config {
    pub const NUMBERS: &[Named<Self, u8>] = named![pods, messages, sends, generations];
    pub const SWITCHES: &[Named<Self, bool>] = named![reader, cold, random_ids, symmetry];

    /// Sets a number, a fault or a switch (0 or 1), or takes a safeguard or an assumption away (`without=<name>`).
    ///
    /// # Errors
    /// What cannot be set like this.
    pub fn set(&mut self, setting: &str) -> Result<(), String> {
        let (name, value) = setting
            .split_once('=')
            .ok_or_else(|| format!("{setting} is not <name>=<value>"))?;
        if name == "without" {
            *find(Safeguards::ALL, &mut self.safeguards, value)
                .or_else(|| find(Servers::ALL, &mut self.servers, value))
                .ok_or_else(|| format!("there is no safeguard {value}"))? = false;
            return Ok(());
        }
        let number: u8 = value
            .parse()
            .map_err(|_| format!("{setting}: not a small number"))?;
        if let Some(switch) = find(Self::SWITCHES, self, name) {
            *switch = number > 0;
        } else if let Some(fault) = find(Faults::ALL, &mut self.faults, name) {
            *fault = number;
        } else if let Some(own) = find(Self::NUMBERS, self, name) {
            *own = number;
        } else {
            return Err(format!("there is no {name}"));
        }
        Ok(())
    }
}

fn find<'a, T, V>(all: &[Named<T, V>], of: &'a mut T, name: &str) -> Option<&'a mut V> {
    let (_, get) = all.iter().find(|(own, _)| *own == name)?;
    Some(get(of))
}

/// What the protocol takes for granted of the servers.
#[derive(Clone, Copy, Debug)]
pub struct Servers {
    /// What an exchange took is in the queue before its deletion is over.
    pub broker_agrees: bool,
    /// What a worker that died had not acknowledged is delivered again in its order, before the rest.
    pub redelivers_in_order: bool,
    /// A Redis whose data is replaced by another's has other ids afterwards and no connections from before.
    pub connections_end: bool,
}

impl Default for Servers {
    fn default() -> Self {
        Self {
            broker_agrees: true,
            redelivers_in_order: true,
            connections_end: true,
        }
    }
}
