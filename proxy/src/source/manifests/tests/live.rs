//! Against a real directory and real inotify.

use std::os::unix::fs::symlink;

use tokio::sync::mpsc::{self, Receiver};

use super::*;

/// A directory that is watched.
struct Live {
    directory: TempDir,
    events: Receiver<SourceEvent>,
}

const LISTED: [&str; 8] = [
    "[ Service",
    "[ EndpointSlice",
    "[ Node",
    "[ ServiceCIDR",
    "] Service",
    "] EndpointSlice",
    "] Node",
    "] ServiceCIDR",
];

impl Live {
    /// Watches a directory of these files; `expected` is told at first.
    async fn start(files: &[(&str, &str)], expected: &[&str]) -> Self {
        let directory = directory(files);
        let (out, events) = mpsc::channel(4);
        tokio::spawn(watch(directory.path().to_owned(), out));
        let mut live = Self { directory, events };
        let whole = [&LISTED[..4], expected, &LISTED[4..]].concat();
        live.tells(&whole).await;
        live
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    /// Moves a file in, as editors and configuration management do.
    fn replace(&self, name: &str, text: &str) {
        self.write(".new", text);
        fs::rename(self.path(".new"), self.path(name)).unwrap();
    }

    /// Waits until exactly this has been told.
    async fn tells(&mut self, expected: &[&str]) {
        let mut told: Vec<String> = Vec::new();
        while told.len() < expected.len() {
            let next = tokio::time::timeout(Duration::from_secs(20), self.events.recv()).await;
            match next {
                Ok(Some(event)) => told.extend(told_event(&event)),
                Ok(None) => panic!("the source ended after {told:?}"),
                Err(_) => panic!("nothing follows {told:?}; expected {expected:?}"),
            }
        }
        assert_eq!(told, expected);
    }
}

#[tokio::test]
async fn only_differences_are_told() {
    let two = format!("{}---\n{}", service("a", 80), service("b", 80));
    let mut live =
        Live::start(&[("f.yaml", &two)], &["+ Service default/a", "+ Service default/b"]).await;
    live.write("f.yaml", &two);
    live.write("f.yaml", &format!("{}---\n{}", service("a", 80), service("b", 81)));
    live.tells(&["+ Service default/b"]).await;
    live.write("f.yaml", &service("a", 80));
    live.tells(&["- Service default/b"]).await;
    live.write("g.yaml", &service("c", 80));
    live.tells(&["+ Service default/c"]).await;
    fs::remove_file(live.path("f.yaml")).unwrap();
    live.tells(&["- Service default/a"]).await;
}

#[tokio::test]
async fn a_broken_file_keeps_its_objects() {
    let good = service("a", 80);
    let mut live = Live::start(&[("f.yaml", &good)], &["+ Service default/a"]).await;
    live.write("f.yaml", "apiVersion: v1\nkind: Service\nmetadata: {name: a");
    live.tells(&["f.yaml:3: metadata: unclosed bracket '{'"]).await;
    live.write("f.yaml", &good);
    live.tells(&["f.yaml is good"]).await;
    live.write("f.yaml", &good.replace("80", "eighty"));
    live.tells(&["f.yaml:7: spec.ports[0].port: this is not a whole number"]).await;
    live.replace("f.yaml", &service("a", 81));
    live.tells(&["+ Service default/a", "f.yaml is good"]).await;
    live.write("f.yaml", "[");
    live.tells(&["f.yaml:1: unclosed bracket '['"]).await;
    fs::remove_file(live.path("f.yaml")).unwrap();
    live.tells(&["- Service default/a", "f.yaml is good"]).await;
}

#[tokio::test]
async fn a_file_is_not_read_before_it_is_closed() {
    use std::io::Write as _;
    let mut live = Live::start(&[], &[]).await;
    let mut file = fs::File::create(live.path("f.yaml")).unwrap();
    file.write_all(service("a", 80).as_bytes()).unwrap();
    // Something else is told meanwhile.
    live.write("g.yaml", &service("g", 80));
    live.tells(&["+ Service default/g"]).await;
    file.write_all(format!("---\n{}", service("b", 80)).as_bytes()).unwrap();
    drop(file);
    live.tells(&["+ Service default/a", "+ Service default/b"]).await;
}

#[tokio::test]
async fn files_move_in_and_out() {
    let mut live = Live::start(&[], &[]).await;
    let elsewhere = directory(&[("x.yaml", &service("a", 80))]);
    fs::hard_link(elsewhere.path().join("x.yaml"), live.path("f.yaml")).unwrap();
    live.tells(&["+ Service default/a"]).await;
    fs::rename(live.path("f.yaml"), live.path("f.yaml.off")).unwrap();
    live.tells(&["- Service default/a"]).await;
    fs::rename(live.path("f.yaml.off"), live.path("g.yaml")).unwrap();
    live.tells(&["+ Service default/a"]).await;
}

#[tokio::test]
async fn two_files_that_define_one_object() {
    let ignored = "b.yaml:1: Service default/web is defined in a.yaml already; this one is ignored";
    let mut live =
        Live::start(&[("b.yaml", &service("web", 82))], &["+ Service default/web"]).await;
    live.write("a.yaml", &service("web", 81));
    live.tells(&["+ Service default/web", ignored]).await;
    // The second may change as it likes...
    live.write("b.yaml", &service("web", 83));
    live.write("c.yaml", &service("web", 84));
    live.tells(&[
        "c.yaml:1: Service default/web is defined in a.yaml already; this one is ignored",
    ])
    .await;
    // ...and takes over, the next one being told to wait for it.
    fs::remove_file(live.path("a.yaml")).unwrap();
    live.tells(&[
        "+ Service default/web",
        "b.yaml is good",
        "c.yaml:1: Service default/web is defined in b.yaml already; this one is ignored",
    ])
    .await;
    live.write("b.yaml", &service("other", 80));
    live.tells(&["+ Service default/other", "+ Service default/web", "c.yaml is good"]).await;
}

#[tokio::test]
async fn an_object_that_moves_between_files_is_not_deleted() {
    let mut live =
        Live::start(&[("b.yaml", &service("web", 80))], &["+ Service default/web"]).await;
    fs::rename(live.path("b.yaml"), live.path("a.yaml")).unwrap();
    live.write("z.yaml", &service("last", 80));
    live.tells(&["+ Service default/last"]).await;
}

#[tokio::test]
async fn a_config_maps_mount_is_swapped() {
    let live = directory(&[]);
    for (version, port) in [("..v1", 80), ("..v2", 81)] {
        fs::create_dir(live.path().join(version)).unwrap();
        fs::write(live.path().join(version).join("f.yaml"), service("a", port)).unwrap();
    }
    symlink("..v1", live.path().join("..data")).unwrap();
    symlink("..data/f.yaml", live.path().join("f.yaml")).unwrap();
    let (out, events) = mpsc::channel(4);
    tokio::spawn(watch(live.path().to_owned(), out));
    let mut live = Live { directory: live, events };
    live.tells(&[&LISTED[..4], &["+ Service default/a"], &LISTED[4..]].concat()).await;
    symlink("..v2", live.path("..data_tmp")).unwrap();
    fs::rename(live.path("..data_tmp"), live.path("..data")).unwrap();
    live.tells(&["+ Service default/a"]).await;
}

#[tokio::test]
async fn a_directory_that_is_lost_keeps_its_objects() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("manifests");
    let fill = |port| {
        fs::create_dir(&path).unwrap();
        fs::write(path.join("a.yaml"), service("a", port)).unwrap();
    };
    fill(80);
    let (out, events) = mpsc::channel(4);
    tokio::spawn(watch(path.clone(), out));
    let mut live = Live { directory: parent, events };
    live.tells(&[&LISTED[..4], &["+ Service default/a"], &LISTED[4..]].concat()).await;

    fs::remove_dir_all(&path).unwrap();
    let lost = "manifests: cannot be read: No such file or directory (os error 2); everything stays as it was";
    live.tells(&[lost]).await;
    let staged = live.path("staged");
    fs::create_dir(&staged).unwrap();
    fs::write(staged.join("a.yaml"), service("a", 81)).unwrap();
    fs::rename(&staged, &path).unwrap();
    live.tells(&["+ Service default/a", "manifests is good"]).await;

    fs::rename(&path, live.path("elsewhere")).unwrap();
    live.tells(&[lost]).await;
    fs::rename(live.path("elsewhere"), &path).unwrap();
    live.tells(&["manifests is good"]).await;
    fs::remove_file(path.join("a.yaml")).unwrap();
    live.tells(&["- Service default/a"]).await;
}

#[tokio::test]
async fn a_missing_directory_is_an_error_at_first() {
    let (out, _events) = mpsc::channel(4);
    let error = watch(PathBuf::from("/nonexistent/manifests"), out).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "the directory of manifests /nonexistent/manifests cannot be watched"
    );
}

#[tokio::test]
async fn it_ends_when_nobody_listens() {
    let directory = directory(&[]);
    let (out, mut events) = mpsc::channel(4);
    let watching = tokio::spawn(watch(directory.path().to_owned(), out));
    for _ in LISTED {
        events.recv().await.unwrap();
    }
    drop(events);
    watching.await.unwrap().unwrap();
}
