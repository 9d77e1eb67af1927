//! RabbitMQ: virtual host, user and rights by the management API; exchanges and queues as a program declares them.

mod api;

use std::time::Duration;

use anyhow::Result;
use backend::cluster::Settings;
use backend::cluster::topology::{self, Topology};
use lapin::Connection;
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use crate::config::Broker;
use crate::report::{self, Found};
use crate::wait::{self, Step, Trouble};
use api::{Api, Change};

/// How the broker knows this program's connections.
const NAME: &str = "bootstrap";
const ACCESS_REFUSED: u16 = 403;
/// How long nodes are waited for that belong to the broker and do not run. Queues are made of those that do.
const NODES_WITHIN: Duration = Duration::from_secs(60);
const NODES_PAUSE: Duration = Duration::from_secs(1);

/// A broker that is to be made ready.
pub struct Making<'a> {
    settings: &'a Settings,
    wait: Duration,
    api: Option<Api>,
}

impl<'a> Making<'a> {
    /// # Errors
    /// When the file of authorities cannot be used.
    pub fn new(settings: &'a Settings, broker: Option<&Broker>, wait: Duration) -> Result<Self> {
        let api = broker.map(|broker| Api::new(broker, &settings.namespace));
        Ok(Self {
            settings,
            wait,
            api: api.transpose()?,
        })
    }

    /// Until programs find all that they need.
    ///
    /// # Errors
    /// When that does not come about.
    pub async fn run(&self) -> Result<()> {
        if let Some(api) = &self.api {
            wait::steps(self.wait, async || {
                let Some(change) = self.lacking(api).await?.into_iter().next() else {
                    return Ok(Step::Done(()));
                };
                api.make(&change).await?;
                info!("rabbitmq: {}", api.made(&change));
                Ok(Step::Further)
            })
            .await?;
            info!("rabbitmq: {}", api.in_order());
            self.wait_for_nodes(api).await;
        }
        wait::until(self.wait, async || self.declare().await).await
    }

    /// What [`Making::run`] would do. Who cannot sign in cannot look at queues.
    pub async fn check(&self) -> Vec<Found> {
        let mut found = Vec::new();
        if let Some(api) = &self.api {
            found = report::found(self.wait, async || self.look(api).await).await;
            if !found.iter().all(Found::is_in_order) {
                return found;
            }
        }
        found.extend(report::found(self.wait, async || self.look_at_queues().await).await);
        found
    }

    async fn look(&self, api: &Api) -> Result<Vec<Found>, Trouble> {
        let lacking = self.lacking(api).await?;
        if lacking.is_empty() {
            return Ok(vec![Found::InOrder(format!(
                "rabbitmq: {}",
                api.in_order()
            ))]);
        }
        let wishes = lacking.iter().map(|change| api.wish(change));
        let found = wishes.map(|wish| Found::Lacking(format!("{wish}, in RabbitMQ")));
        Ok(found.collect())
    }

    async fn look_at_queues(&self) -> Result<Vec<Found>, Trouble> {
        let missing = self.missing().await?;
        let found = match missing[..] {
            [] => Found::InOrder(self.declared()),
            _ => Found::Lacking(format!("declare {}, in RabbitMQ", missing.join(", "))),
        };
        Ok(vec![found])
    }

    /// What the management API says, and whether the user can sign in as programs do.
    async fn lacking(&self, api: &Api) -> Result<Vec<Change>, Trouble> {
        let mut lacking = api.look().await?;
        let sets_password =
            (lacking.iter()).any(|change| matches!(change, Change::MakeUser | Change::TakeTags));
        if !sets_password && !self.may_sign_in().await? {
            lacking.push(Change::SetPassword);
        }
        Ok(lacking)
    }

    /// The broker looks at the password before it looks at the virtual host.
    async fn may_sign_in(&self) -> Result<bool, Trouble> {
        match topology::attempt(&self.settings.rabbitmq, NAME).await? {
            Ok(connection) => {
                let _ = connection.close(200, "looked".into()).await;
                Ok(true)
            }
            Err(error) => match topology::code(&error) {
                Some(ACCESS_REFUSED) => Ok(false),
                Some(_) => Ok(true),
                None => Err(topology::trouble(&error).into()),
            },
        }
    }

    async fn wait_for_nodes(&self, api: &Api) {
        let (begun, mut said) = (Instant::now(), String::new());
        while begun.elapsed() < NODES_WITHIN.min(self.wait) {
            match api.nodes_down().await {
                Ok(down) if down.is_empty() => return,
                Ok(down) => {
                    let why = format!("rabbitmq: {} does not run", down.join(", "));
                    if why != said {
                        info!("waiting: {why}");
                        said = why;
                    }
                }
                Err(trouble) => said = trouble.why().to_owned(),
            }
            sleep(NODES_PAUSE).await;
        }
        warn!("{said}; queues are made of the nodes that run");
    }

    async fn declare(&self) -> Result<(), Trouble> {
        let connection = self.connect().await?;
        let topology = Topology::new(self.settings);
        let missing = topology.missing(&connection).await?;
        let channel = connection.create_channel().await;
        let channel = channel.map_err(|error| topology::trouble(&error))?;
        // What is there is compared with what it has to be.
        let declared = topology.declare(&channel).await;
        let _ = connection.close(200, "declared".into()).await;
        declared?;
        if !missing.is_empty() {
            info!("rabbitmq: declared {}", missing.join(", "));
        }
        info!("{}", self.declared());
        Ok(())
    }

    async fn missing(&self) -> Result<Vec<String>, Trouble> {
        let connection = self.connect().await?;
        let missing = Topology::new(self.settings).missing(&connection).await;
        let _ = connection.close(200, "looked".into()).await;
        Ok(missing?)
    }

    async fn connect(&self) -> Result<Connection, Trouble> {
        Ok(topology::connect(&self.settings.rabbitmq, NAME).await?)
    }

    fn declared(&self) -> String {
        let shards = self.settings.shards;
        format!("rabbitmq: exchanges and the queues of {shards} shards are there")
    }
}
