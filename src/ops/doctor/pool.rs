//! The storage pool: started, within QEMU's reach, with room in it.

use camino::{Utf8Path, Utf8PathBuf};

use super::{context::Context, finding::Finding};
use crate::{
    error::{Code, Result},
    model::size::human,
    ops::{image, prepare},
    store::{accounts::Account, disk_space, path_access, system},
    tools::virsh::Pool,
};

/// Below it no image fits.
const LEAST_ROOM: u64 = 1 << 30;

/// Below it a few guests' disks soon fill it.
const ENOUGH_ROOM: u64 = 10 << 30;

pub(super) fn active(look: &Context) -> Result<Finding> {
    let settings = &look.host.settings;
    let name = settings.pool.clone();
    let Some(pool) = look.host.virsh.pool(&name)? else {
        let path = &settings.pool_path;
        return Ok(Finding::ok(format!("there is no pool `{name}` yet: the first `vm create` makes it in {path}")));
    };
    if !pool.holds_files() {
        let saw = format!("the pool `{name}` is of type `{}`, which cannot hold overlays: choose another", pool.kind);
        return Ok(Finding::fail(Code::Conflict, saw));
    }
    let (kind, path) = (pool.kind.clone(), pool.path.clone());
    if !pool.active {
        let command = look.virsh(&["pool-start", "--pool", &name]);
        return Ok(Finding::warn(format!("the pool `{name}` is not started")).mend_by(command, move |host| {
            prepare::start_pool(host, &pool)?;
            Ok(format!("started the pool `{name}`"))
        }));
    }
    if !look.host.virsh.pool_autostarts(&name)? {
        let command = look.virsh(&["pool-autostart", "--pool", &name]);
        let saw = format!("the pool `{name}` is started and does not start with the host");
        return Ok(Finding::warn(saw).mend_by(command, move |host| {
            host.virsh.autostart_pool(&name)?;
            Ok(format!("made the pool `{name}` start with the host"))
        }));
    }
    Ok(Finding::ok(format!("`{name}` ({kind}) in {path}")))
}

pub(super) fn reachable(look: &Context) -> Result<Finding> {
    let name = look.host.settings.pool.clone();
    let pool = look.host.virsh.pool(&name)?;
    let path = pool.as_ref().map_or(&look.host.settings.pool_path, |pool| &pool.path);
    match &pool {
        Some(pool) if pool.active && matches!(path.try_exists(), Ok(false)) => Ok(without_folder(look, pool)),
        _ => way_to(look, path),
    }
}

/// That an active pool's folder is gone. libvirt makes it for one that is not started only.
fn without_folder(look: &Context, pool: &Pool) -> Finding {
    let (name, pool) = (shell_words::quote(&pool.name).into_owned(), pool.clone());
    let command = ["pool-destroy", "pool-build", "pool-start"].map(|verb| format!("{verb} {name}")).join("; ");
    let saw = format!("the folder {} of the pool `{}` is gone", pool.path, pool.name);
    Finding::fail(Code::NotFound, saw).mend_by(look.virsh(&[&command]), move |host| {
        host.virsh.stop_pool(&pool.name)?;
        prepare::start_pool(host, &pool)?;
        Ok(format!("made the folder of the pool `{}`", pool.name))
    })
}

/// Whether QEMU's user may enter every folder on the way to a file or a folder.
pub(super) fn way_to(look: &Context, path: &Utf8Path) -> Result<Finding> {
    let account = match look.confinement()?.user {
        _ if look.is_session() => Account::own(),
        Some((uid, gid)) => Account::of(uid, gid),
        None => return Ok(Finding::skip("libvirt does not tell which user QEMU runs as")),
    };
    let who = &account.name;
    let barrier = match path_access::barrier(path, &account) {
        Ok(None) => return Ok(Finding::ok(format!("`{who}`, whom QEMU runs as, gets to {path}"))),
        Ok(Some(barrier)) => barrier,
        Err(error) => return Ok(Finding::skip(format!("the way to {path} cannot be looked at: {error}"))),
    };
    let path_access::Barrier { folder, mode, owner } = barrier;
    let saw = format!("`{who}`, whom QEMU runs as, may not enter {folder} ({mode:04o} {owner}) on the way to {path}");
    // To let somebody into a folder is its owner's to decide.
    let install = if system::has_program("setfacl") { "" } else { "sudo apt-get install acl && " };
    let command = format!("{install}sudo setfacl -m u:{who}:x {}", shell_words::quote(folder.as_str()));
    Ok(Finding::fail(Code::Denied, saw).mend(command))
}

pub(super) fn space(look: &Context) -> Result<Finding> {
    let settings = &look.host.settings;
    let (left, place) = match look.host.virsh.pool(&settings.pool)? {
        Some(pool) if !pool.active => return Ok(Finding::skip(format!("the pool `{}` is not started", pool.name))),
        Some(pool) => (image::room_in(&look.host, &pool), format!("the pool `{}`", pool.name)),
        None if !look.sees_files() => return Ok(Finding::skip(format!("there is no pool `{}` yet", settings.pool))),
        None => {
            let folder = existing(&settings.pool_path);
            (disk_space::left(&folder)?, format!("the disk of {folder}, where the pool will be,"))
        }
    };
    Ok(room_for(left, &place))
}

/// What is to be said of so much room.
pub(super) fn room_for(left: u64, place: &str) -> Finding {
    let saw = format!("{place} has {} left", human(left));
    let finding = match left {
        0..LEAST_ROOM => Finding::fail(Code::Conflict, format!("{saw}: hardly an image fits")),
        LEAST_ROOM..ENOUGH_ROOM => Finding::warn(format!("{saw}: guests that write soon fill it")),
        _ => return Finding::ok(saw),
    };
    // What nobody uses goes for good, which is nobody else's to decide.
    finding.mend("vmprov image prune")
}

/// The nearest folder above a path that is there.
pub(super) fn existing(path: &Utf8Path) -> Utf8PathBuf {
    path.ancestors().find(|part| part.exists()).unwrap_or(Utf8Path::new("/")).to_owned()
}

#[cfg(test)]
mod tests {
    use super::{super::CheckStatus, *};
    use crate::error::Hint;

    #[test]
    fn little_room_is_a_warning_and_none_a_failure() {
        for (left, status) in [(0, CheckStatus::Fail), (LEAST_ROOM, CheckStatus::Warn), (ENOUGH_ROOM, CheckStatus::Ok)]
        {
            assert_eq!(room_for(left, "it").status, status);
        }
        assert_eq!(
            room_for(512 << 20, "it").as_hint().unwrap(),
            Hint::run("it has 512M left: hardly an image fits", "vmprov image prune")
        );
        assert_eq!(existing(Utf8Path::new("/tmp/nobody/made/this")), "/tmp");
    }
}
