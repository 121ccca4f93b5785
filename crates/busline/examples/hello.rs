//! A publisher and a consumer on one embedded bus, in one program.
use busline::{Bus, Position, Result};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let bus = Bus::open(&format!("file:{}", directory.path().display())).await?;

    let publisher = bus.publisher("quakes").await?;
    let message = publisher.message("quake.us.strong", r#"{"magnitude": 5.3}"#)?;
    publisher.publish(message.content_type("application/json")).await?; // on disk by now

    let group = bus.group("quakes", "alerts")?.pattern("quake.*.strong")?;
    let mut consumer = group.start(Position::Earliest).subscribe().await?;
    if let Some(delivery) = consumer.next().await? {
        assert_eq!(delivery.message.key.as_str(), "quake.us.strong");
        delivery.ack().await?; // without it the message would come again
    }
    Ok(())
}
