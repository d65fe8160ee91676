//! Rules name webhooks that there are, and what waits for one can be dropped.

use super::world::{Client, World, run};
use crate::client::{CommitError, MetadataClient};
use crate::command::{Command, PutBucketConfig, Refusal};
use crate::index::notices::Queue;
use crate::service::{Metadata, WebhookError};
use codec::effect::{ConfigKind, NotificationRow, NotificationRuleRow};

/// Has `webhook` told of what is made in the client's bucket.
async fn tell(metadata: &Metadata, client: &Client, webhook: &str) -> Result<(), CommitError> {
    let rule = NotificationRuleRow {
        id: "new".to_owned(),
        webhook: webhook.to_owned(),
        events: vec!["s3:ObjectCreated:*".to_owned()],
        ..NotificationRuleRow::default()
    };
    let (bucket, kind) = (client.bucket.unwrap(), ConfigKind::Notification);
    let body = Some(NotificationRow { rules: vec![rule] }.to_body());
    let put = PutBucketConfig { bucket, kind, id: String::new(), body };
    metadata.commit(metadata.epoch(), Command::PutBucketConfig(put)).await.map(drop)
}

/// A tenant invented names: what happened was queued for each of them, without end, and nobody could empty the queues.
#[test]
fn nobody_invents_webhooks_and_what_waits_can_be_dropped() {
    run(async {
        let world = World::new(4, "2+1");
        let metadata = world.start().await;
        let mut client = Client::default();
        client.create_bucket(&metadata).await;
        let unknown = tell(&metadata, &client, "archive").await.unwrap_err();
        assert!(matches!(unknown, CommitError::Unavailable { .. }), "{unknown}: nobody has said yet which there are");
        metadata.set_webhooks(["archive".to_owned()].into());
        let refused = tell(&metadata, &client, "invented").await.unwrap_err();
        assert!(matches!(refused, CommitError::Refused(Refusal::NoSuchWebhook(_))), "{refused}");
        tell(&metadata, &client, "archive").await.unwrap();
        for key in ["a", "b"] {
            client.put(&metadata, key, vec![1; 100]).await.unwrap();
        }
        let queue = |waiting| Queue { webhook: "archive".to_owned(), waiting, lost: 0 };
        assert_eq!(metadata.notices().unwrap(), [queue(2)]);
        assert!(matches!(metadata.drop_notices("invented").await, Err(WebhookError::NoWebhook(_))));
        assert_eq!(metadata.drop_notices("archive").await.unwrap(), 2);
        assert!(metadata.notices().unwrap().is_empty());
        // The rules stay.
        client.put(&metadata, "c", vec![1; 100]).await.unwrap();
        assert_eq!(metadata.drop_notices("archive").await.unwrap(), 1);
        assert_eq!(metadata.drop_notices("archive").await.unwrap(), 0);
        metadata.shutdown().await;
    });
}
