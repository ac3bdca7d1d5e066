//! Lists, shows and cancels the jobs that a client may see.

use std::sync::Arc;

use uuid::Uuid;

use super::{ANSWER_WITHIN, Service, client::Client, job::Job};
use crate::{
    api::{OperationView, Scope},
    error::{Error, Result},
};

impl Service {
    /// Returns the active and recently ended jobs that a client may see, the newest first. Results are omitted, because
    /// together they are large.
    pub(crate) fn operations(&self, client: &Client) -> impl Iterator<Item = OperationView> {
        self.jobs.visible_to(client).into_iter().map(|job| job.summary())
    }

    /// Returns a job that a client may see.
    pub(crate) fn operation(&self, client: &Client, id: &str) -> Result<Arc<Job>> {
        let found = Uuid::parse_str(id).ok().and_then(|id| self.jobs.find(id));
        found.filter(|job| client.may_see(&job.client)).ok_or_else(|| {
            Error::not_found(format!("operation `{}` does not exist", id.escape_debug()))
                .hint("Check the ID: ended operations are forgotten after a while and when the service restarts")
        })
    }

    /// Cancels a job and waits for its rollback, at most for [`ANSWER_WITHIN`].
    pub(crate) async fn cancel(&self, client: &Client, id: &str) -> Result<OperationView> {
        client.require(Scope::Operate, "cancel operations")?;
        self.audit.require()?;
        let job = self.operation(client, id)?;
        if !job.stop() {
            let OperationView { id, operation, state, .. } = job.summary();
            let message = format!("operation `{id}` ({operation}) has already {state}");
            return Err(Error::conflict(message).hint("Undo its changes with another operation"));
        }
        job.ends_within(ANSWER_WITHIN).await;
        Ok(job.view())
    }
}
