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

/// Every object with the version at which it came or changed.
#[derive(Default)]
struct State {
    version: u64,
    objects: BTreeMap<Key, (u64, Value)>,
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
            state.version += 1;
            let version = state.version;
            state.objects.insert(key, (version, object));
        }
        drop(state);
        self.shared.changed.notify_all();
    }

    /// Replaces all objects; those who watch are told the difference: Nodes and `ServiceCIDRs` first, those that go
    /// before those that come.
    pub fn replace(&self, objects: &Objects) {
        let mut state = self.shared.state();
        let State { version, objects: held } = &mut *state;
        *version += 1;
        held.retain(|key, _| objects.0.contains_key(key));
        for (key, object) in &objects.0 {
            let same = held.get(key).is_some_and(|(_, there)| there == object);
            if !same {
                *version += 1;
                held.insert(key.clone(), (*version, object.clone()));
            }
        }
        drop(state);
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
            let items: Vec<_> = state.selected(resource, asked).values().cloned().collect();
            json!({
                "kind": format!("{}List", resource.kind()),
                "apiVersion": resource.api_version(),
                "metadata": { "resourceVersion": state.version.to_string() },
                "items": items,
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
        let mut known = BTreeMap::new();
        let mut seen = 0;
        if !initial {
            // It has listed; if anything came since, it must list again.
            let version = asked.query.get("resourceVersion").and_then(|text| text.parse().ok());
            if version != Some(state.version) {
                drop(state);
                return client.send(&json!({ "type": "ERROR", "object": failure(410, "Expired") }));
            }
            known = state.selected(resource, asked);
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
            seen = state.version;
            let now = state.selected(resource, asked);
            drop(state);
            for event in difference(&known, &now) {
                client.send(&event)?;
            }
            if first {
                client.send(&bookmark(resource, seen))?;
            }
            known = now;
            state = self.state();
        }
        Ok(())
    }
}

impl State {
    /// The objects of a list, with their versions in them.
    fn selected(&self, resource: Resource, asked: &Request) -> BTreeMap<Key, Value> {
        let of_resource = self.objects.iter().filter(|((of, _, _), _)| *of == resource);
        let fits = |object: &Value| {
            let labels = asked.query.get("labelSelector").map_or("", String::as_str);
            let fields = asked.query.get("fieldSelector").map_or("", String::as_str);
            labels.split(',').all(|term| has_label(object, term))
                && fields.split(',').all(|term| has_field(object, term))
        };
        of_resource
            .filter(|(_, (_, object))| fits(object))
            .map(|(key, (version, object))| {
                let mut object = object.clone();
                object["metadata"]["resourceVersion"] = json!(version.to_string());
                object["apiVersion"] = json!(resource.api_version());
                (key.clone(), object)
            })
            .collect()
    }
}

/// The events that lead from one state to the other.
fn difference(before: &BTreeMap<Key, Value>, now: &BTreeMap<Key, Value>) -> Vec<Value> {
    let event = |kind: &str, object: &Value| json!({ "type": kind, "object": object });
    let gone = before.iter().filter(|(key, _)| !now.contains_key(*key));
    let mut events: Vec<_> = gone.map(|(_, object)| event("DELETED", object)).collect();
    for (key, object) in now {
        match before.get(key) {
            None => events.push(event("ADDED", object)),
            Some(there) if there != object => events.push(event("MODIFIED", object)),
            Some(_) => {}
        }
    }
    events
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

    #[test]
    fn those_that_go_are_told_first() {
        let key = |name: &str| (Resource::Service, String::new(), name.to_owned());
        let before = BTreeMap::from([(key("a"), json!(1)), (key("b"), json!(1))]);
        let now = BTreeMap::from([(key("b"), json!(2)), (key("c"), json!(1))]);
        let events = difference(&before, &now);
        let kinds: Vec<_> = events.iter().filter_map(|event| event["type"].as_str()).collect();
        assert_eq!(kinds, ["DELETED", "MODIFIED", "ADDED"]);
    }
}
