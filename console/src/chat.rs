//! `darda chat`.

use std::io::{self, Write};
use std::time::Duration;

use client::engine::{Act, OutboxState, Saved};
use client::{Handle, Update, Updates};
use protocol::{Event, EventBody, MessageId, RoomId, Seq, ServerFrame, SubscribeRoom, UserId};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};

use crate::args::{Account, Chat};
use crate::connect::{Trouble, connect, find_room, note};
use crate::outbox_file::{OutboxFile, state_dir};
use crate::rest::Rest;
use crate::{history, is_broken_pipe, send, text};

/// Typed messages that may wait for their ack; beyond that no line is read.
const WAITING_MAX: usize = 500;
/// How long what was typed last may take to be sent after the end of the input.
const LEAVING: Duration = Duration::from_secs(10);
/// Read cursors are gathered for this long.
const READ_DELAY: Duration = Duration::from_millis(300);

const HELP: &str = "/who shows who is here, /quit leaves. Everything else but blank lines is sent; // at the start sends a /";

/// A conversation in one room.
struct Conversation {
    account: Account,
    room: RoomId,
    history: u32,
    outbox: OutboxFile,
    handle: Handle,
    trouble: Trouble,
    /// Who is online, as far as it is known.
    online: Vec<UserId>,
    /// Whether the room was shown once.
    begun: bool,
    /// The last event shown, and when to say that it was read.
    read: Option<(Seq, Instant)>,
    /// The last message of one's own, and who was said to have seen it.
    mine: Seq,
    seen_by: Vec<UserId>,
}

pub async fn run(account: Account, args: Chat) -> anyhow::Result<()> {
    let room = find_room(&account, &args.room).await?;
    let outbox = OutboxFile::open(&state_dir()?, &account, &room)?;
    if !outbox.waiting().is_empty() {
        note(&format!(
            "{} of the last time will be sent first",
            messages(outbox.waiting().len())
        ));
    }
    let saved = Saved {
        outbox: outbox.waiting().to_vec(),
        ..Saved::default()
    };
    let (handle, updates) = connect(&account, saved);
    let wanted = SubscribeRoom {
        room: room.clone(),
        after: None,
    };
    handle.subscribe(vec![wanted]).await?;
    let conversation = Conversation {
        account,
        room,
        history: args.history,
        outbox,
        handle,
        trouble: Trouble::default(),
        online: Vec::new(),
        begun: false,
        read: None,
        mine: Seq::ZERO,
        seen_by: Vec::new(),
    };
    conversation.run(updates).await
}

/// What a typed line asks for.
enum Next {
    GoOn,
    Leave,
}

impl Conversation {
    async fn run(mut self, mut updates: Updates) -> anyhow::Result<()> {
        match self.talk(&mut updates).await {
            // Nobody reads us any more. What was typed may still wait, which is worth saying.
            Err(error) if !is_broken_pipe(&error) => Err(error),
            _ => self.leave().await,
        }
    }

    async fn talk(&mut self, updates: &mut Updates) -> anyhow::Result<()> {
        let (sender, mut lines) = mpsc::channel(16);
        std::thread::spawn(move || send::read_lines(&sender));
        let mut interrupts = Interrupts::listen()?;
        loop {
            let read_at = self.read.map(|(_, at)| at);
            tokio::select! {
                update = updates.next() => match update {
                    Some(update) => self.update(update).await?,
                    None => break,
                },
                line = lines.recv(), if self.outbox.waiting().len() < WAITING_MAX => match line {
                    Some(line) => if let Next::Leave = self.line(&line?).await? { break },
                    None => break,
                },
                () = interrupts.next() => return Ok(()),
                () = sleep_until(read_at.unwrap_or_else(Instant::now)), if read_at.is_some() => {
                    if let Some((seq, _)) = self.read.take() {
                        self.handle.read(self.room.clone(), seq).await?;
                    }
                }
            }
        }
        // What was typed last is still on its way.
        if self.trouble.is_told() && !self.outbox.waiting().is_empty() {
            note("waiting a moment for the connection; Ctrl-C leaves at once");
        }
        let sent = async {
            while !self.outbox.waiting().is_empty() {
                match updates.next().await {
                    Some(update) => self.update(update).await?,
                    None => break,
                }
            }
            anyhow::Ok(())
        };
        tokio::select! {
            result = timeout(LEAVING, sent) => result.unwrap_or(Ok(()))?,
            () = interrupts.next() => {}
        }
        Ok(())
    }

    async fn leave(self) -> anyhow::Result<()> {
        // The server will notice; there is nothing to lose here.
        let _ = self.handle.close().await;
        match self.outbox.waiting().len() {
            0 => Ok(()),
            left => anyhow::bail!(
                "{} not sent yet; kept for the next `darda chat {}`",
                messages(left),
                self.room
            ),
        }
    }

    async fn line(&mut self, line: &str) -> anyhow::Result<Next> {
        let text = match line.strip_prefix('/') {
            None => line,
            Some(rest) if rest.starts_with('/') => rest,
            Some(command) => {
                match command.trim() {
                    "quit" | "q" => return Ok(Next::Leave),
                    "help" => note(HELP),
                    "who" => {
                        let names: Vec<&str> = self.online.iter().map(UserId::as_str).collect();
                        note(&format!("here: {}", names.join(", ")));
                    }
                    other => note(&format!("there is no /{other}; not sent. {HELP}")),
                }
                return Ok(Next::GoOn);
            }
        };
        let act = Act::Send(protocol::Send {
            id: MessageId::generate(),
            room: Some(self.room.clone()),
            to: None,
            text: text.to_owned(),
            reply_to: None,
            meta: None,
        });
        // On disk first: from here on it survives us.
        self.outbox.add(act.clone())?;
        self.handle.submit(act).await?;
        if self.trouble.is_told() {
            note("kept; it is sent as soon as there is a connection");
        }
        Ok(Next::GoOn)
    }

    async fn update(&mut self, update: Update) -> anyhow::Result<()> {
        self.trouble.watch(&self.account, &update)?;
        match update {
            Update::Event(event) => self.event(&event)?,
            Update::Outbox { id, state } => self.outbox(id, state)?,
            Update::Signal(frame) => self.signal(frame).await?,
            Update::Status(_)
            | Update::Lost { .. }
            | Update::ResetRoom { .. }
            | Update::RoomClosed { .. } => {}
        }
        Ok(())
    }

    fn event(&mut self, event: &Event) -> anyhow::Result<()> {
        let is_mine = event.from.as_ref() == Some(&self.account.user);
        let is_message = matches!(event.body, EventBody::Message { .. });
        if let Some(mut line) = text::event(event) {
            if is_mine && is_message {
                line.push_str("  ✓");
                self.mine = event.seq;
                self.seen_by.clear();
            }
            writeln!(io::stdout().lock(), "{line}")?;
        }
        self.shown(event.seq);
        Ok(())
    }

    fn shown(&mut self, seq: Seq) {
        let at = self
            .read
            .map_or_else(|| Instant::now() + READ_DELAY, |(_, at)| at);
        self.read = Some((seq, at));
    }

    fn outbox(&mut self, id: MessageId, state: OutboxState) -> anyhow::Result<()> {
        match state {
            OutboxState::Sent { .. } => drop(self.outbox.remove(id)?),
            OutboxState::Failed { code, message } => {
                let text = match self.outbox.remove(id)? {
                    Some(Act::Send(send)) => send.text,
                    _ => String::new(),
                };
                note(&format!("not sent: {message} ({code}): {text}"));
            }
            OutboxState::Waiting { code, retry_in_ms } => {
                let secs = retry_in_ms.div_ceil(1000);
                note(&format!("not sent yet ({code}), trying again in {secs} s"));
            }
            OutboxState::Queued | OutboxState::Sending => {}
        }
        Ok(())
    }

    async fn signal(&mut self, frame: ServerFrame) -> anyhow::Result<()> {
        match frame {
            ServerFrame::Subscribed(subscribed) if subscribed.room == self.room => {
                self.online = subscribed.online;
                if !self.begun {
                    self.begun = true;
                    self.begin(subscribed.after).await?;
                }
            }
            ServerFrame::Presence { user, status, .. } => {
                self.online.retain(|other| *other != user);
                if matches!(status, protocol::Status::Online | protocol::Status::Away) {
                    self.online.push(user);
                }
            }
            ServerFrame::Receipt {
                room, user, read, ..
            } if room == self.room => self.receipt(user, read),
            ServerFrame::Error(error) => note(&format!("{} ({})", error.message, error.code)),
            _ => {}
        }
        Ok(())
    }

    /// Tells once per person that one's own last message was seen.
    fn receipt(&mut self, user: UserId, read: Seq) {
        let is_news = self.mine > Seq::ZERO && read >= self.mine && !self.seen_by.contains(&user);
        if is_news && user != self.account.user {
            note(&format!("seen by {user}"));
            self.seen_by.push(user);
        }
    }

    /// Shows what was said before `after`; what comes later is delivered.
    async fn begin(&mut self, after: Seq) -> anyhow::Result<()> {
        if self.history == 0 || after == Seq::ZERO {
            return Ok(());
        }
        let (rest, room, limit) = (
            Rest::new(self.account.clone()),
            self.room.clone(),
            self.history,
        );
        let past = move || rest.history(&room, limit, Some(after.next()));
        match tokio::task::spawn_blocking(past).await? {
            Ok(items) => {
                let mut out = io::stdout().lock();
                for item in &items {
                    writeln!(out, "{}", history::line(item)?)?;
                }
                drop(out);
                self.shown(after);
            }
            // The conversation can go on without its past.
            Err(error) => note(&format!("the history cannot be read: {error:#}")),
        }
        Ok(())
    }
}

fn messages(count: usize) -> String {
    match count {
        1 => "1 message".to_owned(),
        many => format!("{many} messages"),
    }
}

/// Requests to end: Ctrl-C, and on Unix SIGTERM and SIGHUP.
struct Interrupts {
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
    #[cfg(unix)]
    hang_up: tokio::signal::unix::Signal,
}

impl Interrupts {
    #[cfg(unix)]
    fn listen() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    #[cfg(not(unix))]
    fn listen() -> io::Result<Self> {
        Ok(Self {})
    }

    #[cfg(unix)]
    async fn next(&mut self) {
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = self.terminate.recv() => {}
            _ = self.hang_up.recv() => {}
        }
    }

    #[cfg(not(unix))]
    async fn next(&mut self) {
        // When it cannot be listened to, the system's own handling ends us.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
