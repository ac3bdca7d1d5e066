//! What is under way, as a client asks for it.

use std::sync::Arc;

use uuid::Uuid;

use super::{
    ANSWER_WITHIN, Service,
    client::Client,
    job::{Job, View},
};
use crate::{
    api::Scope,
    error::{Error, Result},
};

impl Service {
    /// What is under way and what has ended not long ago, of a client's; the newest first, without results. Those stay where
    /// they are, because together they are large.
    pub(crate) fn operations(&self, client: &Client) -> impl Iterator<Item = View> {
        self.jobs.visible_to(client).into_iter().map(|job| job.summary())
    }

    /// One of them.
    pub(crate) fn operation(&self, client: &Client, id: &str) -> Result<Arc<Job>> {
        let found = Uuid::parse_str(id).ok().and_then(|id| self.jobs.find(id));
        found.filter(|job| client.may_see(&job.client)).ok_or_else(|| {
            Error::not_found(format!("there is no operation `{}`", id.escape_debug()))
                .hint("What has ended is forgotten after a while, and when the service is started again.")
        })
    }

    /// Cancels one, and waits until it has undone what it had done, or for as long as an answer may take.
    pub(crate) async fn cancel(&self, client: &Client, id: &str) -> Result<View> {
        client.require(Scope::Operate, "cancel operations")?;
        self.audit.require()?;
        let job = self.operation(client, id)?;
        if !job.stop() {
            let View { id, operation, state, .. } = job.summary();
            let message = format!("the operation {id} ({operation}) has ended already: it is {}", state.name());
            return Err(Error::conflict(message).hint("What it has done can only be undone by another."));
        }
        job.ends_within(ANSWER_WITHIN).await;
        Ok(job.view())
    }
}
