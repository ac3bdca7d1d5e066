//! The storage pool: whether it is started, accessible to QEMU, and has free space.

use camino::{Utf8Path, Utf8PathBuf};

use super::{context::Context, finding::Finding};
use crate::{
    error::{Code, Result},
    model::size::human,
    ops::{image, prepare},
    store::{accounts::Account, disk_space, path_access, system},
    tools::virsh::Pool,
};

/// The free space below which hardly any image fits.
const MIN_SPACE: u64 = 1 << 30;

/// The free space below which the disks of a few guests soon fill the pool.
const ENOUGH_SPACE: u64 = 10 << 30;

pub(super) fn active(context: &Context) -> Result<Finding> {
    let settings = &context.host.settings;
    let name = settings.pool.clone();
    let Some(pool) = context.host.virsh.pool(&name)? else {
        let path = &settings.pool_path;
        let observed = format!("the pool `{name}` does not exist yet; creating the first VM creates it in {path}");
        return Ok(Finding::ok(observed));
    };
    if !pool.holds_files() {
        let observed = format!("the pool `{name}` is of type `{}`, which cannot hold overlays", pool.kind);
        return Ok(Finding::fail(Code::Conflict, observed));
    }
    let (kind, path) = (pool.kind.clone(), pool.path.clone());
    if !pool.active {
        let command = context.virsh(&["pool-start", "--pool", &name]);
        return Ok(Finding::warn(format!("the pool `{name}` is not started")).fix_by(command, move |host| {
            prepare::start_pool(host, &pool)?;
            Ok(format!("started the pool `{name}`"))
        }));
    }
    if !context.host.virsh.pool_autostarts(&name)? {
        let command = context.virsh(&["pool-autostart", "--pool", &name]);
        let observed = format!("the pool `{name}` is started but does not start with the host");
        return Ok(Finding::warn(observed).fix_by(command, move |host| {
            host.virsh.autostart_pool(&name)?;
            Ok(format!("enabled autostart of the pool `{name}`"))
        }));
    }
    Ok(Finding::ok(format!("`{name}` ({kind}) in {path}")))
}

pub(super) fn reachable(context: &Context) -> Result<Finding> {
    let name = context.host.settings.pool.clone();
    let pool = context.host.virsh.pool(&name)?;
    let path = pool.as_ref().map_or(&context.host.settings.pool_path, |pool| &pool.path);
    match &pool {
        Some(pool) if pool.active && matches!(path.try_exists(), Ok(false)) => Ok(missing_folder(context, pool)),
        _ => access(context, path),
    }
}

/// Returns the finding that an active pool's folder does not exist. libvirt creates it only while the pool is inactive.
fn missing_folder(context: &Context, pool: &Pool) -> Finding {
    let (name, pool) = (shell_words::quote(&pool.name).into_owned(), pool.clone());
    let command = ["pool-destroy", "pool-build", "pool-start"].map(|verb| format!("{verb} {name}")).join("; ");
    let observed = format!("the folder {} of the pool `{}` does not exist", pool.path, pool.name);
    Finding::fail(Code::NotFound, observed).fix_by(context.virsh(&[&command]), move |host| {
        host.virsh.stop_pool(&pool.name)?;
        prepare::start_pool(host, &pool)?;
        Ok(format!("created the folder of the pool `{}`", pool.name))
    })
}

/// Checks whether QEMU's user may enter every folder on the path to a file or a folder.
pub(super) fn access(context: &Context, path: &Utf8Path) -> Result<Finding> {
    let account = match context.confinement()?.user {
        _ if context.is_session() => Account::own(),
        Some((uid, gid)) => Account::of(uid, gid),
        None => return Ok(Finding::skip("libvirt does not report which user QEMU runs as")),
    };
    let user = &account.name;
    let barrier = match path_access::barrier(path, &account) {
        Ok(None) => return Ok(Finding::ok(format!("QEMU's user `{user}` has access to {path}"))),
        Ok(Some(barrier)) => barrier,
        Err(error) => return Ok(Finding::skip(format!("cannot check the path to {path}: {error}"))),
    };
    let path_access::Barrier { folder, mode, owner } = barrier;
    let observed = format!("QEMU's user `{user}` may not enter {folder} ({mode:04o} {owner}) on the path to {path}");
    // Only the owner of a folder can decide who gets access.
    let install = if system::has_program("setfacl") { "" } else { "sudo apt-get install acl && " };
    let command = format!("{install}sudo setfacl -m u:{user}:x {}", shell_words::quote(folder.as_str()));
    Ok(Finding::fail(Code::Denied, observed).fix(command))
}

pub(super) fn space(context: &Context) -> Result<Finding> {
    let settings = &context.host.settings;
    let (free, place) = match context.host.virsh.pool(&settings.pool)? {
        Some(pool) if !pool.active => return Ok(Finding::skip(format!("the pool `{}` is not started", pool.name))),
        Some(pool) => (image::space_in(&context.host, &pool), format!("the pool `{}`", pool.name)),
        None if !context.sees_files() => {
            return Ok(Finding::skip(format!("the pool `{}` does not exist yet", settings.pool)));
        }
        None => {
            let folder = nearest_existing(&settings.pool_path);
            (disk_space::left(&folder)?, format!("the disk of {folder}, where the pool will be created,"))
        }
    };
    Ok(space_finding(free, &place))
}

/// Returns the finding on this many free bytes.
pub(super) fn space_finding(free: u64, place: &str) -> Finding {
    let observed = format!("{place} has {} free", human(free));
    let finding = match free {
        0..MIN_SPACE => Finding::fail(Code::Conflict, format!("{observed}, too little for most images")),
        MIN_SPACE..ENOUGH_SPACE => Finding::warn(format!("{observed}, which guests may soon fill")),
        _ => return Finding::ok(observed),
    };
    // Pruning deletes unused images for good, so the user must decide on it.
    finding.fix("vmprov image prune")
}

/// Returns the nearest folder above a path that exists, or the path itself if it does.
pub(super) fn nearest_existing(path: &Utf8Path) -> Utf8PathBuf {
    path.ancestors().find(|part| part.exists()).unwrap_or(Utf8Path::new("/")).to_owned()
}

#[cfg(test)]
mod tests {
    use super::{super::CheckStatus, *};
    use crate::error::Hint;

    #[test]
    fn little_free_space_is_a_warning_and_too_little_a_failure() {
        for (free, status) in [(0, CheckStatus::Fail), (MIN_SPACE, CheckStatus::Warn), (ENOUGH_SPACE, CheckStatus::Ok)]
        {
            assert_eq!(space_finding(free, "it").status, status);
        }
        assert_eq!(
            space_finding(512 << 20, "it").as_hint().unwrap(),
            Hint::run("it has 512M free, too little for most images", "vmprov image prune")
        );
        assert_eq!(nearest_existing(Utf8Path::new("/tmp/no/such/folder")), "/tmp");
    }
}
