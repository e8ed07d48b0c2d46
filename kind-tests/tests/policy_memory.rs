//! What the daemon holds of each pod and each policy, counted by the allocator: no matter which machine, how many
//! threads, or how a C library keeps what was freed.

use shunt_cluster::Netns;
use shunt_kind_tests::policy::own::Rig;
use shunt_kind_tests::policy::scene::Scene;

#[global_allocator]
static HEAP: dhat::Alloc = dhat::Alloc;

/// Ten pods to a policy, as in the goal of 100 MB resident at 100,000 pods and 10,000 policies.
const SCENE: Scene = Scene { pods: 10_000, policies: 1000 };
/// For a pod with its tenth of a policy: the object, what finds it, its class in the compiler and in the thread of the
/// kernel, and what the policies compile to. Whoever needs more here takes it from those 100 MB.
const MOST: usize = 550;

#[test]
fn a_pod_and_a_tenth_of_a_policy_take_half_a_kilobyte() {
    let _profiler = dhat::Profiler::builder().testing().build();
    let netns = Netns::new("policy-memory").expect("a network namespace: this test needs root");
    let mut rig = Rig::new(&netns).expect("nftables");
    let held = || dhat::HeapStats::get().curr_bytes;

    let before = held();
    rig.load(&SCENE).expect("a sync");
    let bytes = held() - before;
    let status = rig.planner.status();
    assert!(status.pods >= SCENE.pods && status.policies == SCENE.policies, "{status:?}");
    assert!(status.peers > 9000 && status.isolated > 90, "{status:?}");
    drop(rig.table);
    let without_kernel = held() - before;
    drop(rig.planner);
    let (kernel, converter) = (bytes - without_kernel, held() - before);
    let each = bytes / SCENE.pods;
    println!(
        "{each} bytes for each pod, of all {bytes} {kernel} the kernel's and {converter} the converter's"
    );
    assert!(each <= MOST, "{each} bytes for each pod");
}
