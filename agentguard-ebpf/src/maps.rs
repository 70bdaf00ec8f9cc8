//! Every map of the gate. Keys and values are in [`agentguard_common::map`].
//!
//! Hash maps are not preallocated: their bounds are there to stop, not to be filled. Where a bound
//! is reached, the flow that needed the entry is refused.

use agentguard_common::device::{DeviceKey, MOST_DYNAMIC};
use agentguard_common::event::Event;
use agentguard_common::map::{
    AgentEntry, Budget, Counters, Exe, Listeners, NameEntry, NameKey, NetworkEntry, NetworkKey,
    Origin, OriginKey, Settings, SlotKey, SocketEntry, UnixNameKey, UnixOwner,
};
use agentguard_common::quota::{Quota, Usage};
use agentguard_common::seal::SealKeys;
use aya_ebpf::bindings::bpf_map_type::BPF_MAP_TYPE_SK_STORAGE;
use aya_ebpf::bindings::{BPF_F_CLONE, BPF_F_NO_PREALLOC, BPF_SK_STORAGE_GET_F_CREATE};
use aya_ebpf::btf_maps::{
    Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, PerCpuHashMap, RingBuf,
};
use aya_ebpf::helpers::generated::bpf_sk_storage_get;
use aya_ebpf::macros::btf_map;
use core::ffi::c_void;
use core::ptr;

const LAZY: usize = BPF_F_NO_PREALLOC as usize;

#[btf_map]
pub(crate) static SETTINGS: Array<Settings, 1> = Array::new();

#[btf_map]
pub(crate) static AGENTS: HashMap<u64, AgentEntry, 65_536, LAZY> = HashMap::new();

#[btf_map]
pub(crate) static LISTENERS: HashMap<u64, Listeners, 16_384, LAZY> = HashMap::new();

#[btf_map]
pub(crate) static NAMES: HashMap<NameKey, NameEntry, 1_048_576, LAZY> = HashMap::new();

#[btf_map]
pub(crate) static NETWORKS: LpmTrie<NetworkKey, NetworkEntry, 262_144, LAZY> = LpmTrie::new();

#[btf_map]
pub(crate) static ORIGINS: Origins = HashMap::new();

#[btf_map]
pub(crate) static QUERIES: Origins = HashMap::new();

/// Room for 64 agents that use all their slots at once, in each of the two.
pub(crate) type Origins = HashMap<OriginKey, Origin, 131_072, LAZY>;

#[btf_map]
pub(crate) static SLOTS: HashMap<SlotKey, OriginKey, 262_144, LAZY> = HashMap::new();

/// As many as agents, and one for what belongs to none.
#[btf_map]
pub(crate) static BUDGETS: HashMap<u32, Budget, 65_537, LAZY> = HashMap::new();

/// Of the agents that have a quota.
#[btf_map]
pub(crate) static QUOTAS: HashMap<u32, Quota, 65_536, LAZY> = HashMap::new();

/// Of the same.
#[btf_map]
pub(crate) static USAGE: HashMap<u32, Usage, 65_536, LAZY> = HashMap::new();

#[btf_map]
pub(crate) static COUNTERS: PerCpuHashMap<u32, Counters, 65_536, LAZY> = PerCpuHashMap::new();

/// One for all agents: one that starts very many processes crowds out what is known of others'. Nothing is
/// decided by it, and an executable that went is told as unknown.
#[btf_map]
pub(crate) static PROCESSES: LruHashMap<u32, Exe, 16_384> = LruHashMap::new();

#[btf_map]
pub(crate) static EXE_SCRATCH: PerCpuArray<Exe, 1> = PerCpuArray::new();

/// The size of [`EVENTS`], in bytes.
pub(crate) const EVENTS_SIZE: usize = 1_048_576;

#[btf_map]
pub(crate) static EVENTS: RingBuf<Event, EVENTS_SIZE> = RingBuf::new();

#[btf_map]
pub(crate) static SEQUENCE: PerCpuArray<u64, 1> = PerCpuArray::new();

#[btf_map]
pub(crate) static UNIX_NAMES: LpmTrie<UnixNameKey, u32, 65_536, LAZY> = LpmTrie::new();

/// Filled once, by the loader that made it.
#[btf_map]
pub(crate) static SEAL_KEYS: Array<SealKeys, 1> = Array::new();

/// Numbers of devices that agents do not get, as this host has given them out. The keeper's, and never
/// pinned: each daemon looks them up.
#[btf_map]
pub(crate) static DEVICES: HashMap<DeviceKey, u32, MOST_DYNAMIC, LAZY> = HashMap::new();

/// Set by the first call that the loader makes to see whether LSM programs run at all.
#[btf_map]
pub(crate) static LSM_SEEN: Array<u32, 1> = Array::new();

#[btf_map]
pub(crate) static UNIX_OWNERS: SocketStorage<UnixOwner, LAZY> = SocketStorage::new();

#[btf_map]
pub(crate) static SOCKETS: SocketStorage<SocketEntry, INHERITED> = SocketStorage::new();

/// Accepted connections inherit the entry.
const INHERITED: usize = LAZY | BPF_F_CLONE as usize;

/// Socket storage. aya-ebpf's own has neither `BPF_F_CLONE` nor a form for contexts other than
/// `bpf_sock_addr`.
#[repr(C)]
pub(crate) struct SocketStorage<T, const FLAGS: usize> {
    r#type: *const [i32; BPF_MAP_TYPE_SK_STORAGE as usize],
    key: *const i32,
    value: *const T,
    max_entries: *const [i32; 0],
    map_flags: *const [i32; FLAGS],
}

// SAFETY: the fields are a description for the loader and are never dereferenced.
unsafe impl<T, const FLAGS: usize> Sync for SocketStorage<T, FLAGS> {}

impl<T, const FLAGS: usize> SocketStorage<T, FLAGS> {
    const fn new() -> Self {
        Self {
            r#type: ptr::null(),
            key: ptr::null(),
            value: ptr::null(),
            max_entries: ptr::null(),
            map_flags: ptr::null(),
        }
    }

    /// The entry of a socket.
    ///
    /// # Safety
    /// `socket` is what the verifier takes for a full socket in this program type, or null.
    #[inline(always)]
    pub(crate) unsafe fn get(&self, socket: *mut c_void) -> Option<&'static mut T> {
        // SAFETY: the helper checks the pointer; upheld by the caller.
        unsafe { self.look_up(socket, 0) }
    }

    /// The entry of a socket, made of zeroes if there was none.
    ///
    /// # Safety
    /// As for [`Self::get`].
    #[inline(always)]
    pub(crate) unsafe fn create(&self, socket: *mut c_void) -> Option<&'static mut T> {
        // SAFETY: upheld by the caller.
        unsafe { self.look_up(socket, u64::from(BPF_SK_STORAGE_GET_F_CREATE)) }
    }

    #[inline(always)]
    unsafe fn look_up(&self, socket: *mut c_void, flags: u64) -> Option<&'static mut T> {
        if socket.is_null() {
            return None;
        }
        // SAFETY: the map's value type is `T`, integers that are valid for any bytes; the storage lives as
        // long as the socket, which outlives the program run. Two processors that use one socket at
        // once can interleave field writes, so that an entry holds parts of two verdicts: what packets
        // are let out by is sealed (`seal`).
        unsafe {
            bpf_sk_storage_get(
                ptr::from_ref(self).cast_mut().cast(),
                socket,
                ptr::null_mut(),
                flags,
            )
            .cast::<T>()
            .as_mut()
        }
    }
}

/// The key of a whole address in `NETWORKS`: 32 bits of profile and 128 of address.
pub(crate) const NETWORK_KEY_BITS: u32 = 32 + 128;
