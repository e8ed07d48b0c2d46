use std::collections::HashMap;

use super::*;

/// The runtime's end of a session, and what the loop is told.
struct Runtime {
    socket: UnixStream,
    decoder: Decoder,
    asked: u32,
    told: mpsc::Receiver<NriEvent>,
}

impl Runtime {
    /// A runtime whose plugin has registered, been configured, and told that there is nothing.
    async fn start(request_timeout: i64) -> Self {
        let (socket, ours) = UnixStream::pair().expect("sockets");
        let (out, told) = mpsc::channel(QUEUE);
        tokio::spawn(async move { Session::new(ours, &"here".into(), &out).run().await.map(drop) });
        let mut runtime = Self { socket, decoder: Decoder::default(), asked: 0, told };
        let registered = runtime.next().await;
        assert_eq!((registered.connection, registered.kind), (wire::RUNTIME, wire::REQUEST));
        let request = api::Request::decode(registered.payload).expect("a request");
        assert_eq!((&*request.service, &*request.method), (api::RUNTIME, "RegisterPlugin"));
        let plugin = api::RegisterPluginRequest::decode(&*request.payload).expect("a plugin");
        assert_eq!((&*plugin.plugin_name, &*plugin.plugin_idx), ("shunt", "10"));
        let (connection, kind) = (wire::RUNTIME, wire::RESPONSE);
        let stream = registered.stream;
        runtime.send(Message { connection, stream, kind, payload: Bytes::new() }).await;
        let configure = api::ConfigureRequest {
            runtime_name: "containerd".into(),
            runtime_version: "2.1".into(),
            request_timeout,
        };
        let events = runtime.ask("Configure", &configure).await;
        let events = api::ConfigureResponse::decode(events).expect("events");
        assert_eq!(events.events, 0b111, "run, stop and remove");
        runtime
    }

    async fn next(&mut self) -> Message {
        loop {
            if let Some(message) = self.decoder.next().expect("messages") {
                return message;
            }
            let read = self.socket.read_buf(self.decoder.buffer()).await.expect("bytes");
            assert_ne!(read, 0, "the plugin has gone");
        }
    }

    async fn send(&mut self, message: Message) {
        self.socket.write_all(&message.encode()).await.expect("it is read");
    }

    async fn post(&mut self, method: &str, asked: &impl prost::Message) {
        self.asked += 2;
        let request = api::Request {
            service: "nri.pkg.api.v1alpha1.Plugin".into(),
            method: method.into(),
            payload: asked.encode_to_vec(),
            timeout_nano: 0,
        };
        let payload = request.encode_to_vec().into();
        let (connection, kind) = (wire::PLUGIN, wire::REQUEST);
        self.send(Message { connection, stream: self.asked - 1, kind, payload }).await;
    }

    async fn answer(&mut self) -> Bytes {
        let answer = self.next().await;
        assert_eq!((answer.connection, answer.kind), (wire::PLUGIN, wire::RESPONSE));
        assert_eq!(answer.stream, self.asked - 1);
        let response = api::Response::decode(answer.payload).expect("a response");
        assert_eq!(response.status, None);
        response.payload.into()
    }

    async fn ask(&mut self, method: &str, asked: &impl prost::Message) -> Bytes {
        self.post(method, asked).await;
        self.answer().await
    }
}

fn pod(name: &str, ips: &[&str], pid: u32) -> api::PodSandbox {
    let labels = [("app", "x"), ("io.kubernetes.pod.uid", "1")];
    api::PodSandbox {
        id: format!("id-{name}"),
        name: name.into(),
        uid: "1".into(),
        namespace: "default".into(),
        labels: HashMap::from(labels.map(|(key, value)| (key.into(), value.into()))),
        pid,
        ips: ips.iter().map(ToString::to_string).collect(),
    }
}

#[tokio::test]
async fn a_list_in_parts_is_one_list_of_what_runs() {
    let mut runtime = Runtime::start(2000).await;
    for (name, pid, more) in [("a", 7, true), ("ended", 0, true), ("b", 8, false)] {
        let part = api::SynchronizeRequest { pods: vec![pod(name, &["10.0.0.1", "?"], pid)], more };
        let answer = runtime.ask("Synchronize", &part).await;
        let answer = api::SynchronizeResponse::decode(answer).expect("an answer");
        assert_eq!(answer.more, more);
    }
    let Some(NriEvent::All(all)) = runtime.told.recv().await else { panic!("a list") };
    let ids: Vec<_> = all.iter().map(|sandbox| &*sandbox.id).collect();
    assert_eq!(ids, ["id-a", "id-b"]);
    let of = &all[0].pod;
    assert_eq!((&*of.key.name, of.node.as_deref(), of.addresses.len()), ("a", Some("here"), 1));
    assert_eq!(
        *of.labels,
        [("app".into(), "x".into())].into(),
        "the kubelet's are none of the pod"
    );
    let Some(NriEvent::State(state)) = runtime.told.recv().await else { panic!("a state") };
    assert_eq!(state, NriState::Connected("containerd 2.1".into()));
}

#[tokio::test]
async fn a_pod_waits_for_its_word_in_the_words_of_every_release() {
    let mut runtime = Runtime::start(2000).await;
    runtime.ask("Synchronize", &api::SynchronizeRequest::default()).await;
    let _ = (runtime.told.recv().await, runtime.told.recv().await);
    let pod = pod("a", &["10.0.0.1", "fd00::1"], 7);
    let new = api::SandboxRequest { pod: Some(pod.clone()) };
    let old = |event| api::StateChangeEvent { event, pod: Some(pod.clone()) };
    for is_old in [false, true] {
        match is_old {
            false => runtime.post("RunPodSandbox", &new).await,
            true => runtime.post("StateChange", &old(api::RUN_POD_SANDBOX)).await,
        }
        let Some(NriEvent::Started(sandbox, done)) = runtime.told.recv().await else {
            panic!("a sandbox")
        };
        assert_eq!(sandbox.pod.addresses.len(), 2);
        let early = timeout(Duration::from_millis(20), runtime.next()).await;
        assert!(early.is_err(), "it does not wait");
        done.send(()).expect("it waits");
        runtime.answer().await;
        let Some(NriEvent::Waited(waited)) = runtime.told.recv().await else { panic!("a wait") };
        assert_eq!(waited.outcome, Outcome::Programmed);
        match is_old {
            false => drop(runtime.ask("StopPodSandbox", &new).await),
            true => drop(runtime.ask("StateChange", &old(api::REMOVE_POD_SANDBOX)).await),
        }
        let Some(NriEvent::Stopped(id)) = runtime.told.recv().await else { panic!("an end") };
        assert_eq!(&*id, "id-a");
    }
    runtime.ask("PostUpdatePodSandbox", &new).await;
}

#[tokio::test]
async fn nobody_waits_for_long_nor_for_nothing() {
    let mut runtime = Runtime::start(100).await;
    runtime.ask("Synchronize", &api::SynchronizeRequest::default()).await;
    let _ = (runtime.told.recv().await, runtime.told.recv().await);
    // A clock of its own: nobody else has a part in how long it takes.
    tokio::time::pause();
    let began = Instant::now();
    let run = api::SandboxRequest { pod: Some(pod("a", &["10.0.0.1"], 7)) };
    runtime.post("RunPodSandbox", &run).await;
    let Some(NriEvent::Started(_, _done)) = runtime.told.recv().await else { panic!("a sandbox") };
    runtime.answer().await;
    assert!(began.elapsed() < PATIENCE, "half of what the runtime waits is shorter");
    let Some(NriEvent::Waited(waited)) = runtime.told.recv().await else { panic!("a wait") };
    assert_eq!(waited.outcome, Outcome::Overdue);
    let run = api::SandboxRequest { pod: Some(pod("on-host", &[], 7)) };
    runtime.ask("RunPodSandbox", &run).await;
    let Some(NriEvent::Waited(waited)) = runtime.told.recv().await else { panic!("a wait") };
    assert_eq!(waited.outcome, Outcome::NoAddress);
}
