//! The policies of those who have signed lately, read.
//!
//! A request asks twice who signs it, for the secret and for the decision, and policies may have some hundred KiB: to read them each
//! time would let short requests cost far more than they bring.
//!
//! Invariants:
//! * What is remembered is used only for the very documents that it was read from, which are looked up each time: a change counts at
//!   once.
//! * Bounded by the bytes of the documents, and by their number.

use super::signer::{Held, HeldMessage};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Most bytes of documents. What is read of them takes some times as much.
const MOST_BYTES: usize = 4 << 20;
/// Most of those who sign.
const MOST: usize = 4096;

/// Who somebody was when he last signed, as it was looked up and as it was read.
struct Known {
    account: String,
    message: HeldMessage,
    held: Arc<Held>,
}

#[derive(Default)]
struct Lately {
    by_key: HashMap<String, Known>,
    bytes: usize,
}

/// By access keys.
#[derive(Default)]
pub(crate) struct SignedLately {
    lately: Mutex<Lately>,
}

impl SignedLately {
    fn lately(&self) -> MutexGuard<'_, Lately> {
        self.lately.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who `message` says it is, who signs with this access key of an account.
    pub(crate) fn held(&self, access_key: &str, account: &str, message: HeldMessage) -> Arc<Held> {
        let bytes = message.documents();
        if bytes == 0 {
            return Arc::new(Held::new(account, message));
        }
        if let Some(known) = self.lately().by_key.get(access_key)
            && known.account == account
            && known.message == message
        {
            return Arc::clone(&known.held);
        }
        let held = Arc::new(Held::new(account, message.clone()));
        let known = Known { account: account.to_owned(), message, held: Arc::clone(&held) };
        let mut lately = self.lately();
        if lately.by_key.len() >= MOST || lately.bytes.saturating_add(bytes) > MOST_BYTES {
            *lately = Lately::default();
        }
        lately.bytes += bytes;
        if let Some(before) = lately.by_key.insert(access_key.to_owned(), known) {
            lately.bytes -= before.message.documents();
        }
        held
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn message(action: &str, length: usize) -> HeldMessage {
        let text =
            format!(r#"{{"Statement":{{"Effect":"Allow","Action":"{action}","Resource":"*"}}{}}}"#, " ".repeat(length));
        HeldMessage {
            kind: 1,
            path_and_name: "anna".to_owned(),
            identity: vec![Bytes::from(text)],
            ..HeldMessage::default()
        }
    }

    #[test]
    fn the_same_documents_are_read_once() {
        let lately = SignedLately::default();
        let first = lately.held("K", "1", message("s3:GetObject", 0));
        assert!(Arc::ptr_eq(&first, &lately.held("K", "1", message("s3:GetObject", 0))));
        let other = lately.held("K", "1", message("s3:PutObject", 0));
        assert_ne!(first, other, "a policy that was changed counts at once");
        assert_ne!(lately.held("K", "2", message("s3:PutObject", 0)).caller, other.caller);
    }

    #[test]
    fn it_does_not_grow_for_ever() {
        let lately = SignedLately::default();
        for key in 0..3000 {
            lately.held(&format!("K{key}"), "1", message("s3:GetObject", 4000));
        }
        lately.held("K", "1", message("s3:GetObject", 0));
        lately.held("K", "1", message("s3:PutObject", 10));
        let known = lately.lately();
        assert!(known.bytes <= MOST_BYTES && known.by_key.len() <= MOST);
        assert_eq!(known.bytes, known.by_key.values().map(|known| known.message.documents()).sum::<usize>());
    }
}
