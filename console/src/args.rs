//! The command line.

use clap::error::ErrorKind;
use clap::{Args as ClapArgs, CommandFactory, Parser, Subcommand};
use client::Address;
use protocol::{MessageId, RoomId, Seq, UserId};

const AFTER_HELP: &str = "\
A room is named by its id, and the direct room with a user by @user.

Examples:
  darda --user alice chat general             talk
  darda --user alice send general hello all   send one message
  make 2>&1 | darda --user ci send builds     send one message per line
  darda --user alice tail general --json      follow a room, one JSON event per line
  darda --user alice history @bob --limit 200 read back
  darda --user alice trace 0193f7c2-6b1e-7d3a-8f10-2b9c1d4e5f60   what became of a message

DARDA_URL and DARDA_USER save typing --url and --user.
The exit code is 0 when all went well, 1 when something was refused, failed or was not sent, 2 for a mistake on the
command line. A reader of the output that has enough, such as head, is no failure.";

/// Chat, read and send on a Darda server.
#[derive(Debug, Parser)]
#[command(name = "darda", version, after_help = AFTER_HELP, max_term_width = 100)]
pub struct Args {
    /// Address of the server
    #[arg(
        long,
        global = true,
        env = "DARDA_URL",
        default_value = "http://127.0.0.1:8080"
    )]
    url: Address,

    /// Who you are
    #[arg(long, global = true, env = "DARDA_USER")]
    user: Option<UserId>,

    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Talk in a room: shows what was said, then what is being said, and sends every line you type that is not blank
    Chat(Chat),
    /// Follow a room
    Tail(Tail),
    /// Send a message, or one for each line of the standard input that is not blank, and wait until it is kept
    Send(Send),
    /// Show the last messages of a room
    History(History),
    /// List the rooms you can see
    Rooms(Rooms),
    /// Show what became of a message: who kept it when, and who has it
    Trace(Trace),
}

#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Lines that begin with / are commands: /who, /help, /quit. A text that shall begin with / is typed with two.
Messages go to the standard output, everything else to the standard error. A message that could not be sent before you
leave is kept on this machine and sent when you chat in the room the next time.")]
pub struct Chat {
    /// Room id, or @user
    pub room: Target,
    /// How many earlier messages to show
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(0..=200))]
    pub history: u32,
}

#[derive(Debug, ClapArgs)]
pub struct Tail {
    /// Room id, or @user
    pub room: Target,
    /// Begin after this event; 0 for the whole room. Without it: what happens from now on
    #[arg(long, value_name = "SEQ", value_parser = parse_seq)]
    pub after: Option<Seq>,
    /// Stop after this many events
    #[arg(long, value_name = "N")]
    pub limit: Option<u64>,
    /// One JSON object per event
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, ClapArgs)]
pub struct Send {
    /// Room id, or @user
    pub room: Target,
    /// The message; words are joined by spaces. Without it, each line of the standard input is one; blank lines are skipped
    pub text: Vec<String>,
    /// Give up after this long without an answer
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub timeout: u64,
    /// One JSON object per message that is kept: id, room, seq, at
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, ClapArgs)]
pub struct History {
    /// Room id, or @user
    pub room: Target,
    /// How many messages
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub limit: u32,
    /// Only messages before this event
    #[arg(long, value_name = "SEQ", value_parser = parse_seq)]
    pub before: Option<Seq>,
    /// One JSON object per message
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, ClapArgs)]
pub struct Rooms {
    /// Only rooms you are a member of
    #[arg(long)]
    pub mine: bool,
    /// One JSON object per room
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, ClapArgs)]
#[command(after_help = "\
The id is the one that the sender gave the message: send --json prints it, and tail --json and history --json have it.
The steps are appended (it has its place in the room), published (handed to the broker), confirmed (kept for good, at the
latest at this time), relayed (to the processes that have readers in the room now), persisted (stored where it stays),
received and read (by the other members). A server without a broker has the first, the fifth and the last two. Processes are
named as their metric chat_pod_info names them.")]
pub struct Trace {
    /// Id of the message, a UUID
    pub id: MessageId,
    /// Only in this room: room id, or @user. Without it: in all rooms you are a member of
    #[arg(long)]
    pub room: Option<Target>,
    /// One JSON object per message
    #[arg(long)]
    pub json: bool,
}

/// What a person names as a room.
#[derive(Clone, Debug)]
pub enum Target {
    Room(RoomId),
    User(UserId),
}

impl std::str::FromStr for Target {
    type Err = protocol::IdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.strip_prefix('@') {
            Some(user) => UserId::parse(user).map(Self::User),
            None => RoomId::parse(text).map(Self::Room),
        }
    }
}

/// Who talks to which server.
#[derive(Clone, Debug)]
pub struct Account {
    pub server: Address,
    pub user: UserId,
}

impl Args {
    /// Who talks to which server. Ends the program when nobody said who they are.
    #[must_use]
    pub fn account(&self) -> Account {
        let Some(user) = self.user.clone() else {
            mistake("who are you? Say --user NAME or set DARDA_USER");
        };
        Account {
            server: self.url.clone(),
            user,
        }
    }
}

/// Ends the program with the exit code for a mistake on the command line.
pub fn mistake(reason: &str) -> ! {
    Args::command()
        .error(ErrorKind::MissingRequiredArgument, reason)
        .exit()
}

fn parse_seq(text: &str) -> Result<Seq, String> {
    let number = text.parse().map_err(|_| protocol::SeqError.to_string())?;
    Seq::new(number).map_err(|error| error.to_string())
}
