//! MongoDB: the replica set, member by member, and the user of the programs.
//!
//! Members are asked directly and as `__system`, the user that they are to each other, whose password is the contents of
//! their key file. So it works before there is a user or a primary, and from another machine.

mod config;
mod member;
mod plan;
mod set;
mod user;

use std::time::Duration;

use anyhow::Result;
use backend::cluster::mongo;
use backend::cluster::settings::Endpoint;
use tracing::{info, warn};

use crate::config::ReplicaSet;
use crate::report::{self, Found};
use crate::wait::{self, Step, Trouble};
use plan::Plan;
use set::Set;
use user::Users;

/// A replica set that is to be made.
pub struct Making<'a> {
    wanted: &'a ReplicaSet,
    wait: Duration,
    set: Set,
    users: Users,
}

impl<'a> Making<'a> {
    /// Prepares connections to the members; makes none.
    ///
    /// # Errors
    /// When the URI cannot be used.
    pub async fn new(endpoint: &Endpoint, wanted: &'a ReplicaSet, wait: Duration) -> Result<Self> {
        // A name that leads to the members may not be known yet.
        let options = wait::until(wait, async || {
            let options = mongo::options(endpoint).await;
            options.map_err(|error| Trouble::Passing(error.to_string()))
        });
        let options = options.await?;
        Ok(Self {
            wanted,
            wait,
            set: Set::new(&options, wanted)?,
            users: Users::new(options, wanted.user.clone()),
        })
    }

    /// Until there is a primary that has the user: what programs need.
    ///
    /// # Errors
    /// When that does not come about.
    pub async fn begin(&self) -> Result<()> {
        wait::steps(self.wait, async || {
            let view = self.set.look().await;
            match plan::plan(self.wanted, &view) {
                Plan::Refuse(why) => Err(Trouble::Lasting(why)),
                _ if view.leader.is_some() => Ok(Step::Done(())),
                plan => self.carry_out(plan).await.map(|_| Step::Further),
            }
        })
        .await?;
        wait::steps(self.wait, async || {
            let leader = self.set.leader().await?;
            let lacking = self.users.look(&leader).await?;
            let Some(change) = lacking.first() else {
                return Ok(Step::Done(()));
            };
            self.users.make(&leader, *change).await?;
            info!("mongodb: {}", self.users.made(*change));
            Ok(Step::Further)
        })
        .await?;
        info!("mongodb: {}", self.users.in_order());
        Ok(())
    }

    /// Until every member belongs to it and has the data.
    ///
    /// # Errors
    /// When that does not come about.
    pub async fn grow(&self) -> Result<()> {
        let strangers = wait::steps(self.wait, async || {
            let view = self.set.look().await;
            self.carry_out(plan::plan(self.wanted, &view)).await
        });
        for stranger in strangers.await? {
            warn!(
                "mongodb: {stranger} belongs to the replica set and is not among the members named; it stays"
            );
        }
        info!("mongodb: {}", self.set.in_order());
        Ok(())
    }

    /// What [`Making::begin`] and [`Making::grow`] would do, and whether programs can sign in as it is.
    pub async fn check(&self) -> (Vec<Found>, bool) {
        let mut is_begun = false;
        let mut found = report::found(self.wait, async || {
            let view = self.set.look().await;
            is_begun = view.leader.is_some();
            let found = match plan::plan(self.wanted, &view) {
                Plan::Done { .. } => Found::InOrder(format!("mongodb: {}", self.set.in_order())),
                Plan::Wait(why) => return Err(Trouble::Passing(why)),
                Plan::Refuse(why) => Found::Wrong(why),
                change => Found::Lacking(format!("{change}, in MongoDB")),
            };
            Ok(vec![found])
        })
        .await;
        // Without a primary nobody knows of users.
        if !is_begun {
            return (found, false);
        }
        let of_user = self.check_user().await;
        let may_sign_in = of_user.iter().all(Found::is_in_order);
        found.extend(of_user);
        (found, may_sign_in)
    }

    async fn check_user(&self) -> Vec<Found> {
        report::found(self.wait, async || {
            let lacking = self.users.look(&self.set.leader().await?).await?;
            if lacking.is_empty() {
                let in_order = self.users.in_order();
                return Ok(vec![Found::InOrder(format!("mongodb: {in_order}"))]);
            }
            let wishes = lacking.into_iter().map(|change| self.users.wish(change));
            let found = wishes.map(|wish| Found::Lacking(format!("{wish}, in MongoDB")));
            Ok(found.collect())
        })
        .await
    }

    /// The answer, when nothing is left to do: members that nobody named.
    async fn carry_out(&self, plan: Plan) -> Result<Step<Vec<String>>, Trouble> {
        match plan {
            Plan::Done { strangers } => return Ok(Step::Done(strangers)),
            Plan::Wait(why) => return Err(Trouble::Passing(why)),
            Plan::Refuse(why) => return Err(Trouble::Lasting(why)),
            change => {
                self.set.carry_out(&change).await?;
                info!("mongodb: {}", change.done());
            }
        }
        Ok(Step::Further)
    }
}
