//! A client that writes while something happens to the cluster.

use super::access::until;
use aws_sdk_s3::Client;
use aws_sdk_s3::primitives::ByteStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tests::cluster::site::PATIENCE;
use tests::s3::document;
use tokio::task::JoinHandle;

/// Puts one object after the other until it is told to end.
pub struct Writing {
    client: Client,
    bucket: &'static str,
    size: usize,
    ends: Arc<AtomicBool>,
    acknowledged: JoinHandle<Vec<u64>>,
}

impl Writing {
    /// Begins, with objects of `size` bytes in a bucket that is there.
    pub fn begin(client: &Client, bucket: &'static str, size: usize) -> Writing {
        let ends = Arc::new(AtomicBool::new(false));
        let acknowledged = tokio::spawn(writes(client.clone(), bucket, size, ends.clone()));
        Writing { client: client.clone(), bucket, size, ends, acknowledged }
    }

    /// Ends, once enough was written to mean anything, and reads everything that was acknowledged.
    pub async fn ends_with_all_there(self) {
        self.ends.store(true, Ordering::Relaxed);
        let acknowledged =
            tokio::time::timeout(PATIENCE, self.acknowledged).await.expect("objects are written").unwrap();
        for n in acknowledged {
            let get = async || self.client.get_object().bucket(self.bucket).key(n.to_string()).send().await;
            let answer = until("what was acknowledged", None, get).await.unwrap();
            assert!(answer.body.collect().await.unwrap().into_bytes() == document(n, self.size), "object {n}");
        }
    }
}

async fn writes(client: Client, bucket: &'static str, size: usize, ends: Arc<AtomicBool>) -> Vec<u64> {
    let mut acknowledged = Vec::new();
    for n in 0.. {
        if ends.load(Ordering::Relaxed) && acknowledged.len() > 20 {
            break;
        }
        let body = ByteStream::from(document(n, size));
        if client.put_object().bucket(bucket).key(n.to_string()).body(body).send().await.is_ok() {
            acknowledged.push(n);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    acknowledged
}
