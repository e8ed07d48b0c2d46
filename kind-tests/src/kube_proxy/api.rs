//! An API server that lists and watches, and nothing else.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::Result;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::{Value, json};
use shunt_cluster::Netns;

use super::http::{Conversation, Request};
use super::objects::{Key, Objects, Resource};

/// Where it answers, inside each namespace.
const ADDRESS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 16443);
/// How often a thread looks whether all is over.
const PAUSE: Duration = Duration::from_millis(100);

/// The server. It ends, with all its threads, when dropped.
pub struct Api {
    shared: Arc<Shared>,
    listeners: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    over: AtomicBool,
}

/// What is, and what was and has gone. Whoever watches looks at what is newer than what it knows, and at nothing else:
/// a benchmark measures those who watch, on the same processor.
#[derive(Default)]
struct State {
    version: u64,
    objects: BTreeMap<Key, Held>,
    /// Each object once, by its newest version.
    newest: BTreeMap<u64, Key>,
}

/// What someone who watches has been told of, as it was then.
type Known = BTreeMap<Key, Arc<Value>>;

/// An object with the version at which it came, changed or went.
struct Held {
    version: u64,
    object: Arc<Value>,
    gone: bool,
}

impl Api {
    /// The address for `--master`.
    #[must_use]
    pub fn url() -> String {
        format!("http://{ADDRESS}")
    }

    /// Credentials and address, for a program that wants a file.
    #[must_use]
    pub fn kubeconfig() -> String {
        json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{ "name": "c", "cluster": { "server": Self::url() } }],
            "users": [{ "name": "u", "user": {} }],
            "contexts": [{ "name": "c", "context": { "cluster": "c", "user": "u" } }],
        })
        .to_string()
    }

    /// A server that nobody can reach yet, with these objects.
    #[must_use]
    pub fn new(objects: &Objects) -> Self {
        let api = Self { shared: Arc::default(), listeners: Vec::new() };
        api.replace(objects);
        api
    }

    /// Answers in a namespace, on its loopback address.
    ///
    /// # Errors
    /// If the port is taken.
    pub fn serve(&mut self, netns: &Netns) -> Result<()> {
        let listener = netns.run(|| TcpListener::bind(ADDRESS))?;
        listener.set_nonblocking(true)?;
        let shared = Arc::clone(&self.shared);
        let accept = move || shared.accept(&listener);
        let thread = thread::Builder::new().name(format!("api-{}", netns.name()));
        self.listeners.push(thread.spawn(accept)?);
        Ok(())
    }

    /// Adds an object, or replaces the one of its name.
    pub fn put(&self, object: Value) {
        let mut objects = Objects::default();
        objects.add(object);
        let mut state = self.shared.state();
        for (key, object) in objects.0 {
            state.put(key, object);
        }
        drop(state);
        self.shared.changed.notify_all();
    }

    /// Replaces all objects; those who watch are told the difference: Nodes and `ServiceCIDRs` first, those that go
    /// before those that come.
    pub fn replace(&self, objects: &Objects) {
        self.shared.state().replace(objects);
        self.shared.changed.notify_all();
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Relaxed);
        self.shared.changed.notify_all();
        for listener in self.listeners.drain(..) {
            // A panic of it was printed when it happened.
            let _ = listener.join();
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn goes_on(&self) -> bool {
        !self.over.load(Ordering::Relaxed)
    }

    /// Takes connections until the end, and waits for their threads.
    fn accept(self: &Arc<Self>, listener: &TcpListener) {
        let mut conversations = Vec::new();
        let timeout = PollTimeout::try_from(PAUSE).unwrap_or(PollTimeout::ZERO);
        while self.goes_on() {
            let mut ready = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
            let _ = poll(&mut ready, timeout);
            while let Ok((stream, _)) = listener.accept() {
                let shared = Arc::clone(self);
                // An error is the client's end of the connection: it comes again.
                conversations.push(thread::spawn(move || drop(shared.converse(stream))));
            }
        }
        for conversation in conversations {
            let _ = conversation.join();
        }
    }

    fn converse(&self, stream: std::net::TcpStream) -> io::Result<()> {
        let mut client = Conversation::new(stream)?;
        while let Some(request) = client.request(&|| self.goes_on())? {
            let resource = Resource::of_path(&request.path).filter(|_| request.method == "GET");
            match resource {
                None => client.answer(404, &failure(404, "NotFound"))?,
                Some(resource) if request.query.get("watch").is_some_and(|on| on == "true") => {
                    return self.watch(&mut client, resource, &request);
                }
                Some(resource) => self.list(&mut client, resource, &request)?,
            }
        }
        Ok(())
    }

    fn list(
        &self,
        client: &mut Conversation,
        resource: Resource,
        asked: &Request,
    ) -> io::Result<()> {
        let list = {
            let state = self.state();
            let items =
                state.selected(resource, asked).map(|(_, held)| held.shown(&held.object, resource));
            json!({
                "kind": format!("{}List", resource.kind()),
                "apiVersion": resource.api_version(),
                "metadata": { "resourceVersion": state.version.to_string() },
                "items": items.collect::<Vec<_>>(),
            })
        };
        client.answer(200, &list)
    }

    /// Tells a client what differs from what it knows, until it or the test ends.
    fn watch(
        &self,
        client: &mut Conversation,
        resource: Resource,
        asked: &Request,
    ) -> io::Result<()> {
        let initial = asked.query.get("sendInitialEvents").is_some_and(|on| on == "true");
        client.begin()?;
        let mut state = self.state();
        let mut known = Known::new();
        let mut seen = 0;
        if !initial {
            // It has listed; if anything came since, it must list again.
            let version = asked.query.get("resourceVersion").and_then(|text| text.parse().ok());
            if version != Some(state.version) {
                drop(state);
                return client.send(&json!({ "type": "ERROR", "object": failure(410, "Expired") }));
            }
            let there = state.selected(resource, asked);
            known = there.map(|(key, held)| (key.clone(), Arc::clone(&held.object))).collect();
            seen = state.version;
        }
        while self.goes_on() {
            if state.version == seen {
                state = self
                    .changed
                    .wait_timeout(state, PAUSE)
                    .map_or_else(|poison| poison.into_inner().0, |(state, _)| state);
                continue;
            }
            let first = initial && seen == 0;
            let events = state.events(seen, resource, asked, &mut known);
            seen = state.version;
            drop(state);
            for event in events {
                client.send(&event)?;
            }
            if first {
                client.send(&bookmark(resource, seen))?;
            }
            state = self.state();
        }
        Ok(())
    }
}

impl State {
    /// Holds an object, or holds it no more, as the newest that has happened.
    fn note(&mut self, key: Key, object: Arc<Value>, gone: bool) {
        self.version += 1;
        let held = Held { version: self.version, object, gone };
        if let Some(before) = self.objects.insert(key.clone(), held) {
            self.newest.remove(&before.version);
        }
        self.newest.insert(self.version, key);
    }

    fn put(&mut self, key: Key, object: Value) {
        self.note(key, Arc::new(object), false);
    }

    fn replace(&mut self, objects: &Objects) {
        self.version += 1;
        let there = self.objects.iter().filter(|(_, held)| !held.gone);
        let gone = there.filter(|(key, _)| !objects.0.contains_key(*key));
        let gone: Vec<_> =
            gone.map(|(key, held)| (key.clone(), Arc::clone(&held.object))).collect();
        for (key, object) in gone {
            self.note(key, object, true);
        }
        for (key, object) in &objects.0 {
            let held = self.objects.get(key).filter(|held| !held.gone);
            if held.is_none_or(|held| *held.object != *object) {
                self.put(key.clone(), object.clone());
            }
        }
    }

    /// The objects of a list.
    fn selected(&self, resource: Resource, asked: &Request) -> impl Iterator<Item = (&Key, &Held)> {
        let of_resource = self.objects.iter().filter(move |((of, _, _), _)| *of == resource);
        of_resource.filter(|(_, held)| !held.gone && fits(&held.object, asked))
    }

    /// What came after a version, in its order, for someone who knows these objects of what was asked for.
    fn events(
        &self,
        since: u64,
        resource: Resource,
        asked: &Request,
        known: &mut Known,
    ) -> Vec<Value> {
        let keys = self.newest.range(since + 1..).map(|(_, key)| key);
        let changed = keys.filter(|(of, _, _)| *of == resource);
        let changed = changed.filter_map(|key| self.objects.get_key_value(key));
        let mut events = Vec::new();
        for (key, held) in changed {
            let is_there = !held.gone && fits(&held.object, asked);
            let before = match is_there {
                true => known.insert(key.clone(), Arc::clone(&held.object)),
                false => known.remove(key),
            };
            let (kind, object) = match (is_there, &before) {
                (true, Some(_)) => ("MODIFIED", &held.object),
                (true, None) => ("ADDED", &held.object),
                // As it was while it was selected.
                (false, Some(before)) => ("DELETED", before),
                (false, None) => continue,
            };
            events.push(json!({ "type": kind, "object": held.shown(object, resource) }));
        }
        events
    }
}

impl Held {
    /// An object as clients get it, with this version in it.
    fn shown(&self, object: &Value, resource: Resource) -> Value {
        let mut object = object.clone();
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        object["apiVersion"] = json!(resource.api_version());
        object
    }
}

/// Whether an object is of those that a request selects.
fn fits(object: &Value, asked: &Request) -> bool {
    let labels = asked.query.get("labelSelector").map_or("", String::as_str);
    let fields = asked.query.get("fieldSelector").map_or("", String::as_str);
    labels.split(',').all(|term| has_label(object, term))
        && fields.split(',').all(|term| has_field(object, term))
}

/// The end of a streamed list.
fn bookmark(resource: Resource, version: u64) -> Value {
    json!({ "type": "BOOKMARK", "object": {
        "kind": resource.kind(),
        "apiVersion": resource.api_version(),
        "metadata": {
            "resourceVersion": version.to_string(),
            "annotations": { "k8s.io/initial-events-end": "true" },
        },
    }})
}

fn failure(code: u16, reason: &str) -> Value {
    json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason,
        "message": reason,
    })
}

/// The terms that kube-proxy uses: `!key`.
fn has_label(object: &Value, term: &str) -> bool {
    match term.strip_prefix('!') {
        Some(key) => object["metadata"]["labels"].get(key).is_none(),
        None => true,
    }
}

/// The terms that kube-proxy uses: `path=value` and `path!=value`.
fn has_field(object: &Value, term: &str) -> bool {
    let Some((path, value)) = term.split_once('=') else { return true };
    let (path, wanted) = match path.strip_suffix('!') {
        Some(path) => (path, false),
        None => (path, true),
    };
    let found = object.pointer(&format!("/{}", path.replace('.', "/")));
    (found.and_then(Value::as_str) == Some(value)) == wanted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_terms_of_kube_proxy_are_understood() {
        let object = json!({ "metadata": { "name": "a", "labels": { "l/m": "" } }, "spec": { "clusterIP": "None" } });
        assert!(!has_label(&object, "!l/m") && has_label(&object, "!l") && has_label(&object, ""));
        assert!(has_field(&object, "metadata.name=a") && !has_field(&object, "metadata.name=b"));
        assert!(!has_field(&object, "spec.clusterIP!=None"));
    }

    fn told(state: &State, since: u64, known: &mut Known) -> Vec<String> {
        let asked = Request {
            method: "GET".to_owned(),
            path: String::new(),
            query: [("labelSelector".to_owned(), "!hidden".to_owned())].into(),
        };
        let events = state.events(since, Resource::Service, &asked, known);
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let told = |event: &Value| {
            let metadata = &event["object"]["metadata"];
            let hidden = if metadata["labels"].get("hidden").is_some() { ", hidden" } else { "" };
            format!("{} {}{hidden}", text(&event["type"]), text(&metadata["name"]))
        };
        events.iter().map(told).collect()
    }

    fn services(services: &[(&str, Value)]) -> Objects {
        let mut objects = Objects::default();
        for (name, labels) in services {
            let metadata = json!({ "name": name, "labels": labels });
            objects.add(json!({ "kind": "Service", "metadata": metadata, "spec": {} }));
        }
        objects
    }

    #[test]
    fn those_who_watch_are_told_what_is_newer_and_what_goes_first() {
        let mut state = State::default();
        let mut known = Known::new();
        state.replace(&services(&[("a", json!({})), ("b", json!({})), ("c", json!({}))]));
        assert_eq!(told(&state, 0, &mut known), ["ADDED a", "ADDED b", "ADDED c"]);
        let seen = state.version;
        state.replace(&services(&[
            ("a", json!({})),
            ("b", json!({ "new": "" })),
            ("d", json!({})),
        ]));
        assert_eq!(told(&state, seen, &mut known), ["DELETED c", "MODIFIED b", "ADDED d"]);
        let seen = state.version;
        state.replace(&services(&[("a", json!({ "hidden": "" })), ("c", json!({}))]));
        // What is not selected any more is told as it was: that is what the others remember.
        let after = ["DELETED b", "DELETED d", "DELETED a", "ADDED c"];
        assert_eq!(told(&state, seen, &mut known), after);
        assert_eq!(told(&state, state.version, &mut known), [""; 0]);
        assert_eq!(told(&state, 0, &mut Known::new()), ["ADDED c"]);
    }
}
