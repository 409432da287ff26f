//! Publishing events to containerd: in order, retried for as long as containerd is away, holding nobody else up.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use containerd_shim_protos::api::ForwardRequest;
use containerd_shim_protos::events::task as event;
use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::well_known_types::timestamp::Timestamp;
use containerd_shim_protos::shim::event::Envelope;
use containerd_shim_protos::shim_async::{Client, EventsClient};
use containerd_shim_protos::{topics, ttrpc};
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::log;
use crate::error::{Context, Error, Result};

/// Waits between attempts while containerd is away; the last one repeats.
const PAUSES: [u64; 5] = [50, 250, 1000, 5000, 15_000];
/// How long containerd may take over one event.
const PATIENCE: Duration = Duration::from_secs(5);

/// The protobuf package of all events.
const PACKAGE: &str = "containerd.events";

/// A message with a topic of its own.
pub(crate) trait Event: Message {
    const TOPIC: &'static str;
}

macro_rules! topics {
    ($($message:ident => $topic:ident,)*) => {
        $(impl Event for event::$message { const TOPIC: &'static str = topics::$topic; })*
    };
}

topics! {
    TaskCreate => TASK_CREATE_EVENT_TOPIC,
    TaskStart => TASK_START_EVENT_TOPIC,
    TaskExecAdded => TASK_EXEC_ADDED_EVENT_TOPIC,
    TaskExecStarted => TASK_EXEC_STARTED_EVENT_TOPIC,
    TaskExit => TASK_EXIT_EVENT_TOPIC,
    TaskDelete => TASK_DELETE_EVENT_TOPIC,
    TaskOOM => TASK_OOM_EVENT_TOPIC,
    TaskPaused => TASK_PAUSED_EVENT_TOPIC,
    TaskResumed => TASK_RESUMED_EVENT_TOPIC,
    TaskCheckpointed => TASK_CHECKPOINTED_EVENT_TOPIC,
}

/// A point in time as protobuf has it.
pub(crate) fn timestamp(time: SystemTime) -> Timestamp {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp { seconds: since.as_secs() as i64, nanos: since.subsec_nanos() as i32, ..Timestamp::default() }
}

/// The sending end of the queue.
#[derive(Debug, Clone)]
pub(crate) struct Events {
    namespace: String,
    queue: mpsc::UnboundedSender<Envelope>,
}

/// Where events go.
#[derive(Debug)]
pub(crate) enum Destination {
    /// containerd's ttrpc socket.
    Ttrpc(String),
    /// `BINARY -address ADDRESS publish …`, for a containerd without a ttrpc socket.
    Binary { binary: String, address: String },
}

/// Makes the queue. The receiver goes to [`deliver`].
pub(crate) fn queue(namespace: &str) -> (Events, mpsc::UnboundedReceiver<Envelope>) {
    let (queue, receiver) = mpsc::unbounded_channel();
    (Events { namespace: namespace.to_owned(), queue }, receiver)
}

impl Events {
    /// For what containerd does not want to hear of.
    pub(crate) fn nowhere() -> Self {
        queue("").0
    }

    /// Queues `event`. Events are few, for only containerd's own requests cause them, so the queue needs no bound.
    pub(crate) fn send<E: Event>(&self, event: &E) {
        let Ok(value) = event.write_to_bytes() else {
            return;
        };
        // Asking the message's descriptor for its name would build the descriptors of all messages: 300 KiB.
        let type_url = format!("{PACKAGE}.{}", E::NAME);
        let mut envelope = Envelope::new();
        envelope.timestamp = Some(timestamp(SystemTime::now())).into();
        envelope.namespace.clone_from(&self.namespace);
        envelope.topic.push_str(E::TOPIC);
        envelope.event = Some(Any { type_url, value, ..Any::default() }).into();
        // Without a receiver nobody wants to know.
        let _: std::result::Result<(), _> = self.queue.send(envelope);
    }
}

/// Delivers what is queued until every sender is gone and the queue is empty.
pub(crate) async fn deliver(destination: Destination, mut queue: mpsc::UnboundedReceiver<Envelope>) {
    let mut client = None;
    while let Some(envelope) = queue.recv().await {
        let mut pauses = PAUSES.iter();
        let mut pause = PAUSES[PAUSES.len() - 1];
        while let Err(error) = attempt(&destination, &mut client, &envelope).await {
            // A connection that was cut fails once; only the second failure is worth a line.
            pause = pauses.next().copied().unwrap_or(pause);
            if pause != PAUSES[0] {
                log::warn(&format!("publish {}: {error}; trying again in {pause} ms", envelope.topic));
            }
            sleep(Duration::from_millis(pause)).await;
        }
        if queue.is_empty() {
            // Events come in bursts; in between the descriptor is worth more than the time to connect.
            client = None;
        }
    }
}

async fn attempt(destination: &Destination, client: &mut Option<EventsClient>, envelope: &Envelope) -> Result<()> {
    match destination {
        Destination::Ttrpc(address) => {
            let connected = match client.take() {
                Some(connected) => connected,
                None => connect(address).await?,
            };
            let mut request = ForwardRequest::new();
            request.envelope = Some(envelope.clone()).into();
            let patience = ttrpc::context::with_duration(PATIENCE);
            connected.forward(patience, &request).await.map_err(|error| Error::other(error.to_string()))?;
            *client = Some(connected);
            Ok(())
        }
        Destination::Binary { binary, address } => run_publisher(binary, address, envelope).await,
    }
}

async fn connect(address: &str) -> Result<EventsClient> {
    let address = if address.contains("://") { address.to_owned() } else { format!("unix://{address}") };
    let client = Client::connect(&address).await;
    client.map(EventsClient::new).map_err(|error| Error::other(format!("connect to {address}: {error}")))
}

async fn run_publisher(binary: &str, address: &str, envelope: &Envelope) -> Result<()> {
    let event = envelope.event.as_ref().map(Message::write_to_bytes).transpose();
    let event = event.map_err(|error| Error::other(error.to_string()))?.unwrap_or_default();
    let mut command = Command::new(binary);
    command.args(["--address", address, "publish", "--topic", &envelope.topic, "--namespace", &envelope.namespace]);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().context(|| format!("start {binary}"))?;
    let pidfd = super::watch::claim(child.id())?;
    if let Some(mut stdin) = child.stdin.take() {
        // An event is smaller than a pipe.
        stdin.write_all(&event).context(|| "write the event")?;
    }
    pidfd.ended().await?;
    let status = child.wait().context(|| "wait for the publisher")?;
    if status.success() { Ok(()) } else { Err(Error::other(format!("{binary} publish: {status}"))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_carry_containerds_names() {
        let (events, mut queue) = queue("ns");
        events.send(&event::TaskStart { container_id: "c".into(), pid: 7, ..event::TaskStart::default() });
        events.send(&event::TaskExit::default());
        let first = queue.try_recv().unwrap();
        assert_eq!((first.topic.as_str(), first.namespace.as_str()), ("/tasks/start", "ns"));
        assert_eq!(first.event.type_url, "containerd.events.TaskStart");
        assert_eq!(event::TaskStart::parse_from_bytes(&first.event.value).unwrap().pid, 7);
        assert_eq!(queue.try_recv().unwrap().topic, "/tasks/exit");
    }
}
