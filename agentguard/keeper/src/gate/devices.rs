//! Devices whose numbers this host has given out: found by their drivers' names, in `/proc/misc` and
//! `/proc/devices` (proc(5)).

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};

use agentguard_common::device::{ANY_MINOR, DYNAMIC, DeviceKey, List, MISC_MAJOR, MOST_DYNAMIC};
use aya::maps::{HashMap, MapData};

use super::{Gate, GateError, ignore_absent, map_error};

/// Of a list of the kernel's, at most: some hundred drivers of short names.
const LIST_BYTES: u64 = 256 * 1024;

/// What the kernel knows of them.
pub(super) struct Devices {
    map: HashMap<MapData, DeviceKey, u32>,
    /// What is in the map.
    known: BTreeMap<DeviceKey, u32>,
    /// Why the lists could not be read last time.
    unknown: Option<String>,
}

impl Devices {
    pub(super) fn new(map: HashMap<MapData, DeviceKey, u32>) -> Self {
        Self {
            map,
            known: BTreeMap::new(),
            unknown: None,
        }
    }
}

impl Gate {
    /// Looks up the numbers of devices that agents do not get. To be repeated: drivers come and go with
    /// modules, and a number that one gives back is another's next.
    ///
    /// # Errors
    /// [`GateError::Map`]. Lists that cannot be read are told by [`Self::devices_unknown`]; what was known
    /// stays.
    pub fn look_for_devices(&mut self) -> Result<(), GateError> {
        let devices = &mut self.devices;
        let (misc, majors) = match (list("/proc/misc"), list("/proc/devices")) {
            (Ok(misc), Ok(majors)) => (misc, majors),
            (Err(error), _) | (_, Err(error)) => {
                devices.unknown = Some(error.to_string());
                return Ok(());
            }
        };
        devices.unknown = None;
        let found = numbers(&misc, &majors);
        if found == devices.known {
            return Ok(());
        }
        for key in devices.known.keys().filter(|key| !found.contains_key(key)) {
            ignore_absent(devices.map.remove(key), "DEVICES")?;
        }
        for (key, place) in &found {
            devices
                .map
                .insert(key, place, 0)
                .map_err(map_error("write", "DEVICES"))?;
        }
        devices.known = found;
        Ok(())
    }

    /// The numbers that [`Self::look_for_devices`] found, with the places of their drivers in [`DYNAMIC`].
    #[must_use]
    pub fn devices(&self) -> &BTreeMap<DeviceKey, u32> {
        &self.devices.known
    }

    /// Why devices whose numbers differ from host to host cannot be refused, if they cannot.
    #[must_use]
    pub fn devices_unknown(&self) -> Option<&str> {
        self.devices.unknown.as_deref()
    }
}

fn list(path: &str) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?
        .take(LIST_BYTES)
        .read_to_string(&mut text)?;
    Ok(text)
}

/// What of both lists is in [`DYNAMIC`].
fn numbers(misc: &str, majors: &str) -> BTreeMap<DeviceKey, u32> {
    // Numbers of block devices are others.
    let majors = majors.split("Block devices:").next().unwrap_or_default();
    let lists = [(List::Misc, misc), (List::Major, majors)];
    let lines = lists.into_iter().flat_map(|(list, text)| {
        text.lines().filter_map(move |line| {
            let (number, driver) = line.trim_start().split_once(' ')?;
            let number = number.parse().ok()?;
            let place = DYNAMIC
                .iter()
                .position(|known| known.0 == list && known.1 == driver.trim())?;
            let key = match list {
                List::Misc => DeviceKey {
                    major: MISC_MAJOR,
                    minor: number,
                },
                List::Major => DeviceKey {
                    major: number,
                    minor: ANY_MINOR,
                },
            };
            Some((key, u32::try_from(place + 1).ok()?))
        })
    });
    lines.take(MOST_DYNAMIC).collect()
}

#[cfg(test)]
mod tests {
    use agentguard_common::device::{ANY_MINOR, DeviceKey};

    use super::numbers;

    #[test]
    fn drivers_are_found_by_name_in_the_list_that_they_are_in() {
        let misc = "122 iommu\n260 vhost-vsock\n  3 macvtap\n125 rdma_cm\nx iommu\n";
        let majors = "Character devices:\n  1 mem\n246 macvtap\n511 vfio-dev\n 10 misc\n\n\
                      Block devices:\n245 uio\n254 virtblk\n";
        let key = |major, minor| DeviceKey { major, minor };
        let expected = [
            (key(10, 122), 2),
            (key(10, 125), 1),
            (key(246, ANY_MINOR), 3),
            (key(511, ANY_MINOR), 6),
        ];
        assert!(numbers(misc, majors).into_iter().eq(expected));
        assert!(numbers("", "").is_empty());
    }
}
