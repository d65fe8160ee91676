//! Waiting for what comes of a command, and telling the audit log.
//!
//! Invariant: once the committer was asked, what came of it is written down whether or not anybody waits for the answer. A client that
//! hangs up right after its request ends the future that serves it, while the command is carried out all the same: were it told only by
//! that future, whoever wants to delete without a trace would only have to be quick.

use super::Shared;
use crate::audit::{self, Told};
use crate::commit::Answer;
use std::sync::Arc;
use storage_node::trace;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

/// A command that the committer was asked for.
pub(super) struct Telling {
    shared: Arc<Shared>,
    told: Vec<Told>,
    /// `None`: it has come.
    answer: Option<oneshot::Receiver<Answer>>,
}

impl Telling {
    /// `told`: what there will be to tell of it, besides what its outcome says.
    pub fn new(shared: Arc<Shared>, told: Vec<Told>, answer: oneshot::Receiver<Answer>) -> Telling {
        Telling { shared, told, answer: Some(answer) }
    }

    /// The answer; `None` if there will be none, because the service is stopping.
    pub async fn answer(mut self) -> Option<Answer> {
        let answer = self.answer.as_mut()?.await;
        self.answer = None;
        let answer = answer.ok()?;
        let by = audit::asker().unwrap_or_default();
        self.shared.note(std::mem::take(&mut self.told), &by, answer.as_ref().map_err(ToString::to_string));
        Some(answer)
    }
}

impl Drop for Telling {
    fn drop(&mut self) {
        let Some(answer) = self.answer.take().filter(|_| self.shared.audit.is_open()) else { return };
        // Without a runtime the process ends, and so does the committer.
        let Ok(runtime) = Handle::try_current() else { return };
        let (shared, told) = (self.shared.clone(), std::mem::take(&mut self.told));
        let by = audit::asker().unwrap_or_default();
        runtime.spawn(trace::within(trace::current(), async move {
            if let Ok(answer) = answer.await {
                shared.note(told, &by, answer.as_ref().map_err(ToString::to_string));
            }
        }));
    }
}
