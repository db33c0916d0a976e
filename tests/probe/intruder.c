/* What a program in a container tries to get out, one line for each attempt. Not a
 * test by itself: tests/isolation.rs runs it under two daemons and looks at what
 * came of it.
 *
 *   intruder kernel          at the kernel, its mounts, parameters and devices
 *   intruder process PID     at another process
 *   intruder keys RING KEY   at another's session keyring and the key in it
 *   intruder keeper          keeps a key in its session keyring until its input ends
 *   intruder ring            tells its session keyring */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <linux/keyctl.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <time.h>

#include <linux/if.h>

#include "ask.h"

static char bytes[4096];
static char target[32];

/* Makes an attempt in a child; it returns nothing, or the number of an error. */
static void attempt(const char *name, int (*made)(const void *), const void *with)
{
	pid_t child = fork();

	if (child == 0) {
		alarm(1);
		_exit(made(with));
	}
	tell(name, child);
}

/* The path of a file of the process that is the target. */
static const char *of(const char *name)
{
	static char path[96];

	snprintf(path, sizeof(path), "/proc/%s/%s", target, name);
	return path;
}

static int reads(const void *path)
{
	int file = open(path, O_RDONLY | O_NONBLOCK);

	if (file < 0)
		return errno;
	return read(file, bytes, sizeof(bytes)) < 0 ? errno : 0;
}

/* Nothing is written, so that nothing is hurt where it may be. */
static int opens_for_writing(const void *path)
{
	return open(path, O_WRONLY | O_NONBLOCK) < 0 ? errno : 0;
}

static int lists(const void *path)
{
	return opendir(path) ? 0 : errno;
}

static int follows(const void *path)
{
	return readlink(path, bytes, sizeof(bytes)) < 0 ? errno : 0;
}

static int joins(const void *path)
{
	int file = open(path, O_RDONLY);

	if (file < 0)
		return errno;
	return setns(file, 0) < 0 ? errno : 0;
}

static int unmounts(const void *path)
{
	return umount2(path, MNT_DETACH) < 0 ? errno : 0;
}

static int remounts(const void *path)
{
	return mount("", path, 0, MS_REMOUNT | MS_BIND, "") < 0 ? errno : 0;
}

static int binds(const void *path)
{
	return mount(path, "/tmp", 0, MS_BIND | MS_REC, "") < 0 ? errno : 0;
}

static int shares(const void *path)
{
	return mount("", path, 0, MS_SHARED | MS_REC, "") < 0 ? errno : 0;
}

/* A node of a device, made where it may be, and opened. */
struct node {
	mode_t kind;
	unsigned major, minor;
};

static int makes_node(const void *with)
{
	const struct node *node = with;

	unlink("/tmp/node");
	return mknod("/tmp/node", node->kind | 0600, makedev(node->major, node->minor)) < 0 ? errno : 0;
}

static int opens_node(const void *with)
{
	int error = makes_node(with);

	if (error)
		return error;
	return open("/tmp/node", O_RDWR | O_NONBLOCK) < 0 ? errno : 0;
}

/* The old way out of a changed root: another one below, and up past it. Tells of
 * an error unless it ends where it began. */
static int climbs(const void *nothing)
{
	struct stat before, after;

	stat("/", &before);
	mkdir("/tmp/below", 0700);
	if (chroot("/tmp/below") < 0)
		return errno;
	for (int step = 0; step < 64; step++)
		if (chdir("..") < 0)
			return errno;
	if (chroot(".") < 0)
		return errno;
	stat("/", &after);
	return before.st_dev == after.st_dev && before.st_ino == after.st_ino ? EXDEV : 0;
}

/* A file of the host, known by a file that was mounted: its root has handle 2 on
 * most kinds of disks. */
static int opens_by_handle(const void *path)
{
	struct {
		struct file_handle head;
		uint32_t inode[2];
	} handle = { .head = { .handle_bytes = 8, .handle_type = 1 }, .inode = { 2, 0 } };
	int mounted = open(path, O_RDONLY);

	if (mounted < 0)
		return errno;
	return open_by_handle_at(mounted, &handle.head, O_RDONLY) < 0 ? errno : 0;
}

/* Takes a capability that no default container has. */
static int takes_capability(const void *nothing)
{
	struct { uint32_t version; int pid; } head = { 0x20080522, 0 };
	struct { uint32_t effective, permitted, inheritable; } sets[2];

	if (syscall(SYS_capget, &head, sets) < 0)
		return errno;
	sets[0].effective |= 1 << 21;
	sets[0].permitted |= 1 << 21;
	return syscall(SYS_capset, &head, sets) < 0 ? errno : 0;
}

static int takes_link_down(const void *name)
{
	struct ifreq request = { .ifr_flags = 0 };
	int end = socket(AF_INET, SOCK_DGRAM, 0);

	strcpy(request.ifr_name, name);
	return ioctl(end, SIOCSIFFLAGS, &request) < 0 ? errno : 0;
}

static int raises_limit(const void *nothing)
{
	struct rlimit limit = { RLIM_INFINITY, RLIM_INFINITY };

	getrlimit(RLIMIT_MEMLOCK, &limit);
	limit.rlim_max = limit.rlim_max == RLIM_INFINITY ? 0 : limit.rlim_max + 4096;
	return limit.rlim_max == 0 ? EPERM : setrlimit(RLIMIT_MEMLOCK, &limit) < 0 ? errno : 0;
}

static int is_never_killed(const void *nothing)
{
	int file = open("/proc/self/oom_score_adj", O_WRONLY);

	return file < 0 || write(file, "-1000", 5) < 0 ? errno : 0;
}

static void try_kernel(void)
{
	static const char *const parameters[] = {
		"/proc/sys/kernel/core_pattern", "/proc/sys/kernel/modprobe", "/proc/sys/vm/panic_on_oom",
		"/proc/sys/fs/binfmt_misc/register", "/proc/sys/net/ipv4/ip_forward",
		"/proc/sysrq-trigger", "/proc/irq/default_smp_affinity", "/proc/kcore", "/proc/keys",
		"/proc/timer_list", "/proc/acpi/x", "/sys/kernel/uevent_helper", "/sys/kernel/profiling",
		"/sys/power/state", "/sys/fs/cgroup/memory/release_agent",
		"/sys/fs/cgroup/devices/devices.allow", "/sys/fs/cgroup/pids/cgroup.procs",
		"/sys/fs/cgroup/cgroup.procs", "/proc/self/setgroups", "/proc/self/uid_map",
		"/proc/1/oom_score_adj",
	};
	static const char *const covered[] = {
		"/proc", "/proc/kcore", "/proc/keys", "/proc/sys", "/proc/bus", "/proc/sysrq-trigger",
		"/sys", "/sys/firmware", "/sys/fs/cgroup", "/dev", "/dev/pts", "/etc/hosts", "/",
	};
	static const struct {
		const char *name;
		struct node node;
	} nodes[] = {
		{ "memory", { S_IFCHR, 1, 1 } }, { "kernel memory", { S_IFCHR, 1, 2 } },
		{ "ports", { S_IFCHR, 1, 4 } }, { "kernel log", { S_IFCHR, 1, 11 } },
		{ "raw", { S_IFCHR, 162, 0 } }, { "loop control", { S_IFCHR, 10, 237 } },
		{ "fuse", { S_IFCHR, 10, 229 } }, { "kvm", { S_IFCHR, 10, 232 } },
		{ "terminal", { S_IFCHR, 4, 64 } }, { "console", { S_IFCHR, 5, 1 } },
		{ "virtual disk", { S_IFBLK, 254, 0 } }, { "disk", { S_IFBLK, 8, 0 } },
		{ "loop", { S_IFBLK, 7, 0 } }, { "mapper", { S_IFCHR, 10, 236 } },
		{ "tunnel", { S_IFCHR, 10, 200 } }, { "null", { S_IFCHR, 1, 3 } },
	};
	static const struct timespec never = { 0, -1 };
	static const char *const kinds[] = { "mnt", "net", "pid", "ipc", "uts", "user", "cgroup" };
	char name[96], path[64];

	for (unsigned at = 0; at < sizeof(parameters) / sizeof(parameters[0]); at++) {
		snprintf(name, sizeof(name), "open %s", parameters[at]);
		attempt(name, opens_for_writing, parameters[at]);
	}
	for (unsigned at = 0; at < sizeof(covered) / sizeof(covered[0]); at++) {
		snprintf(name, sizeof(name), "unmount %s", covered[at]);
		attempt(name, unmounts, covered[at]);
		snprintf(name, sizeof(name), "remount %s", covered[at]);
		attempt(name, remounts, covered[at]);
		snprintf(name, sizeof(name), "bind %s", covered[at]);
		attempt(name, binds, covered[at]);
		snprintf(name, sizeof(name), "share %s", covered[at]);
		attempt(name, shares, covered[at]);
	}
	for (unsigned at = 0; at < sizeof(nodes) / sizeof(nodes[0]); at++) {
		snprintf(name, sizeof(name), "make device %s", nodes[at].name);
		attempt(name, makes_node, &nodes[at].node);
		snprintf(name, sizeof(name), "open device %s", nodes[at].name);
		attempt(name, opens_node, &nodes[at].node);
	}
	for (unsigned at = 0; at < sizeof(kinds) / sizeof(kinds[0]); at++) {
		snprintf(path, sizeof(path), "/proc/1/ns/%s", kinds[at]);
		snprintf(name, sizeof(name), "join %s", kinds[at]);
		attempt(name, joins, path);
	}
	attempt("climb out of a changed root", climbs, 0);
	attempt("open the host's root by its handle", opens_by_handle, "/etc/hosts");
	attempt("take a capability", takes_capability, 0);
	attempt("take the loopback down", takes_link_down, "lo");
	attempt("raise a limit", raises_limit, 0);
	attempt("escape the killer of processes", is_never_killed, 0);
	attempt("list /sys/kernel/debug", lists, "/sys/kernel/debug/sched");
	attempt("write to the own executable", opens_for_writing, "/proc/self/exe");

	ask("mount a disk", SYS_mount, (long)"none", (long)"/tmp", (long)"tmpfs", 0, 0);
	ask("mount proc", SYS_mount, (long)"none", (long)"/tmp", (long)"proc", 0, 0);
	ask("mount sys", SYS_mount, (long)"none", (long)"/tmp", (long)"sysfs", 0, 0);
	ask("mount control groups", SYS_mount, (long)"none", (long)"/tmp", (long)"cgroup2", 0, 0);
	ask("mount an overlay", SYS_mount, (long)"none", (long)"/tmp", (long)"overlay", 0,
	    (long)"lowerdir=/:/tmp");
	ask("move a mount", SYS_mount, (long)"/proc", (long)"/tmp", 0, MS_MOVE, 0);
	ask("open a tree", SYS_open_tree, AT_FDCWD, (long)"/", 1, 0, 0);
	ask("move an open tree", SYS_move_mount, AT_FDCWD, (long)"/proc", AT_FDCWD, (long)"/tmp", 0);
	ask("open a kind of mount", SYS_fsopen, (long)"tmpfs", 0, 0, 0, 0);
	ask("pick a mount", SYS_fspick, AT_FDCWD, (long)"/", 0, 0, 0);
	ask("change attributes of mounts", SYS_mount_setattr, AT_FDCWD, (long)"/proc/sys", 0,
	    (long)bytes, 32);
	ask("change the root", SYS_pivot_root, (long)"/tmp", (long)"/tmp", 0, 0, 0);
	ask("leave for a user namespace", SYS_unshare, CLONE_NEWUSER, 0, 0, 0, 0);
	ask("leave for a user and a mount namespace", SYS_unshare, CLONE_NEWUSER | CLONE_NEWNS, 0, 0, 0, 0);
	ask("leave for a mount namespace", SYS_unshare, CLONE_NEWNS, 0, 0, 0, 0);
	ask("clone into a user namespace", SYS_clone, CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0);
	ask("a ring of requests", SYS_io_uring_setup, 4, (long)bytes, 0, 0, 0);
	ask("load a program of the kernel", SYS_bpf, 5, (long)bytes, 64, 0, 0);
	ask("make a map of the kernel", SYS_bpf, 0, (long)bytes, 64, 0, 0);
	ask("measure the machine", SYS_perf_event_open, (long)bytes, -1, 0, -1, 0);
	ask("load another kernel", SYS_kexec_load, 0, 0, 0, 0, 0);
	ask("load another kernel from files", SYS_kexec_file_load, -1, -1, 0, 0, 0);
	ask("load a module", SYS_init_module, (long)bytes, 16, (long)"", 0, 0);
	ask("load a module from a file", SYS_finit_module, 0, (long)"", 0, 0, 0);
	ask("remove a module", SYS_delete_module, (long)"no such module", O_NONBLOCK, 0, 0, 0);
	ask("set the clock", SYS_settimeofday, 0, 0, 0, 0, 0);
	/* To no time that there is. */
	ask("set a clock", SYS_clock_settime, CLOCK_REALTIME, (long)&never, 0, 0, 0);
	/* Not now, but how Ctrl+Alt+Del is answered: with a signal. */
	ask("reboot", SYS_reboot, 0xfee1dead, 672274793, 0, 0, 0);
	ask("read the log of the kernel", SYS_syslog, 3, (long)bytes, 16, 0, 0);
	ask("clear the log of the kernel", SYS_syslog, 11, 0, 0, 0, 0);
	ask("take a swap", SYS_swapon, (long)"/etc/hosts", 0, 0, 0, 0);
	ask("drop a swap", SYS_swapoff, (long)"/etc/hosts", 0, 0, 0, 0);
	ask("account for processes", SYS_acct, (long)"/etc/hosts", 0, 0, 0, 0);
	ask("quotas", SYS_quotactl, 0x80000100, 0, 0, 0, 0);
	ask("reach ports", SYS_ioperm, 0x80, 1, 1, 0, 0);
	ask("reach all ports", SYS_iopl, 3, 0, 0, 0, 0);
	ask("watch all files", SYS_fanotify_init, 0, 0, 0, 0, 0);
	ask("handle faults", SYS_userfaultfd, 0, 0, 0, 0, 0);
	ask("name the host", SYS_sethostname, (long)"x", 1, 0, 0, 0);
	ask("name the domain", SYS_setdomainname, (long)"x", 1, 0, 0, 0);
	ask("be urgent", SYS_setpriority, PRIO_PROCESS, 0, -20, 0, 0);
	ask("be real-time", SYS_sched_setscheduler, 0, SCHED_FIFO, (long)"\1\0\0", 0, 0);
	ask("be first at the disk", SYS_ioprio_set, 1, 0, 1 << 13, 0, 0);
	ask("hang up the terminal", SYS_vhangup, 0, 0, 0, 0, 0);
	ask("raise an ambient capability", SYS_prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, 21, 0, 0);
	ask("take memory of its own kind", SYS_mlockall, 1, 0, 0, 0, 0);
	ask("a socket that is the kernel's log of audits", SYS_socket, AF_NETLINK, SOCK_RAW, 9, 0, 0);
	ask("a socket to machines", SYS_socket, AF_VSOCK, SOCK_STREAM, 0, 0, 0);
}

static int signals(const void *number)
{
	return kill(atoi(target), *(const int *)number) < 0 ? errno : 0;
}

static int traces(const void *nothing)
{
	return ptrace(PTRACE_SEIZE, atoi(target), 0, 0) < 0 ? errno : 0;
}

/* Where the process has something mapped: the kernel tells nobody who may not
 * trace it, so this program's own places must do. */
static int copies_memory(const void *call)
{
	struct iovec here = { bytes, 8 }, there = { (void *)0x400000, 8 };
	char line[128];
	FILE *maps = fopen(of("maps"), "r");

	if (maps && fgets(line, sizeof(line), maps))
		there.iov_base = (void *)strtoul(line, 0, 16);
	return syscall(*(const long *)call, atoi(target), &here, 1L, &there, 1L, 0L) < 0 ? errno : 0;
}

static int by_descriptor(const void *call)
{
	int process = syscall(SYS_pidfd_open, atoi(target), 0);

	if (process < 0)
		return errno;
	switch (*(const long *)call) {
	case SYS_pidfd_send_signal:
		return syscall(SYS_pidfd_send_signal, process, 0, 0L, 0) < 0 ? errno : 0;
	case SYS_pidfd_getfd:
		return syscall(SYS_pidfd_getfd, process, 0, 0) < 0 ? errno : 0;
	case SYS_setns:
		return setns(process, CLONE_NEWNS) < 0 ? errno : 0;
	default:
		return 0;
	}
}

static void try_process(void)
{
	static const int none, go_on = SIGCONT;
	static const long calls[] = { SYS_process_vm_readv, SYS_process_vm_writev };
	static const long descriptors[] = { SYS_pidfd_open, SYS_pidfd_send_signal, SYS_pidfd_getfd, SYS_setns };
	static const char *const files[] = {
		"environ", "maps", "mem", "auxv", "stack", "syscall", "io", "cmdline", "status", "attr/current",
	};
	static const char *const written[] = { "mem", "comm", "clear_refs", "coredump_filter", "timerslack_ns" };
	static const char *const links[] = { "exe", "cwd", "root", "fd/0", "ns/mnt" };
	static const char *const folders[] = { "root", "root/etc", "fd", "map_files", "cwd" };
	static const char *const spaces[] = { "mnt", "net", "ipc", "uts", "cgroup" };
	char name[64];
	int pid = atoi(target);

	attempt("see it", signals, &none);
	attempt("signal it", signals, &go_on);
	attempt("trace it", traces, 0);
	attempt("read its memory", copies_memory, &calls[0]);
	attempt("write its memory", copies_memory, &calls[1]);
	for (unsigned at = 0; at < 4; at++) {
		static const char *const names[] = { "hold it", "signal it by descriptor",
						     "take its descriptor", "join it by descriptor" };

		attempt(names[at], by_descriptor, &descriptors[at]);
	}
	for (unsigned at = 0; at < sizeof(files) / sizeof(files[0]); at++) {
		snprintf(name, sizeof(name), "read its %s", files[at]);
		/* Nothing is mapped at the beginning of memory. */
		attempt(name, strcmp(files[at], "mem") ? reads : opens_for_writing, of(files[at]));
	}
	for (unsigned at = 0; at < sizeof(written) / sizeof(written[0]); at++) {
		snprintf(name, sizeof(name), "open its %s", written[at]);
		attempt(name, opens_for_writing, of(written[at]));
	}
	for (unsigned at = 0; at < sizeof(links) / sizeof(links[0]); at++) {
		snprintf(name, sizeof(name), "follow its %s", links[at]);
		attempt(name, follows, of(links[at]));
	}
	for (unsigned at = 0; at < sizeof(folders) / sizeof(folders[0]); at++) {
		snprintf(name, sizeof(name), "list its %s", folders[at]);
		attempt(name, lists, of(folders[at]));
	}
	for (unsigned at = 0; at < sizeof(spaces) / sizeof(spaces[0]); at++) {
		char path[16];

		snprintf(path, sizeof(path), "ns/%s", spaces[at]);
		snprintf(name, sizeof(name), "join its %s", spaces[at]);
		attempt(name, joins, of(path));
	}
	ask("change its limits", SYS_prlimit64, pid, RLIMIT_CORE, 0, (long)bytes, 0);
	ask("compare it", SYS_kcmp, getpid(), pid, 1, 0, 0);
	ask("move its pages", SYS_move_pages, pid, 0, 0, 0, 0);
	ask("measure it", SYS_perf_event_open, (long)bytes, pid, -1, -1, 0);
	ask("make it urgent", SYS_setpriority, PRIO_PROCESS, pid, -20, 0, 0);
	ask("learn its locks", SYS_get_robust_list, pid, (long)bytes, (long)(bytes + 8), 0, 0);
}

static void try_keys(long ring, long key)
{
	ask("describe the ring", SYS_keyctl, KEYCTL_DESCRIBE, ring, (long)bytes, sizeof(bytes), 0);
	ask("read the ring", SYS_keyctl, KEYCTL_READ, ring, (long)bytes, sizeof(bytes), 0);
	ask("link the ring", SYS_keyctl, KEYCTL_LINK, ring, KEY_SPEC_SESSION_KEYRING, 0, 0);
	ask("search the ring", SYS_keyctl, KEYCTL_SEARCH, ring, (long)"user", (long)"secret", 0);
	ask("describe the key", SYS_keyctl, KEYCTL_DESCRIBE, key, (long)bytes, sizeof(bytes), 0);
	ask("read the key", SYS_keyctl, KEYCTL_READ, key, (long)bytes, sizeof(bytes), 0);
	ask("link the key", SYS_keyctl, KEYCTL_LINK, key, KEY_SPEC_SESSION_KEYRING, 0, 0);
	ask("give the key away", SYS_keyctl, KEYCTL_CHOWN, key, 33, 33, 0);
	ask("open the key to all", SYS_keyctl, KEYCTL_SETPERM, key, 0x3f3f3f3f, 0, 0);
	ask("revoke the key", SYS_keyctl, KEYCTL_REVOKE, key, 0, 0, 0);
	ask("request the key", SYS_request_key, (long)"user", (long)"secret", 0, 0, 0);
	ask("add a key for the user", SYS_add_key, (long)"user", (long)"left", (long)"x", 1,
	    KEY_SPEC_PROCESS_KEYRING);
}

/* Tells the session keyring, and what it is called. */
static long tell_ring(void)
{
	long ring = syscall(SYS_keyctl, KEYCTL_GET_KEYRING_ID, KEY_SPEC_SESSION_KEYRING, 0);

	if (ring < 0 || syscall(SYS_keyctl, KEYCTL_DESCRIBE, ring, bytes, sizeof(bytes)) < 0)
		printf("ring: %s\n", strerrorname_np(errno));
	else
		printf("ring %ld %s\n", ring, bytes);
	return ring;
}

int main(int count, char **words)
{
	const char *what = count > 1 ? words[1] : "";

	setvbuf(stdout, 0, _IOLBF, 0);
	if (!strcmp(what, "keeper")) {
		/* With a name it is a ring of its own; in a container it has one. */
		if (count > 2 && syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, words[2]) < 0)
			return 1;
		tell_ring();
		printf("key %ld\n", syscall(SYS_add_key, "user", "secret", "of another", 10L,
					      KEY_SPEC_SESSION_KEYRING));
		while (read(0, bytes, sizeof(bytes)) > 0)
			;
		return 0;
	}
	if (!strcmp(what, "ring")) {
		tell_ring();
		return 0;
	}
	/* Some of what is tried works on a host, and does harm there. */
	if (access("/in-a-container", F_OK) < 0) {
		fprintf(stderr, "intruder: this is no container made for it\n");
		return 2;
	}
	if (!strcmp(what, "kernel")) {
		try_kernel();
	} else if (!strcmp(what, "process") && count > 2) {
		snprintf(target, sizeof(target), "%s", words[2]);
		try_process();
	} else if (!strcmp(what, "keys") && count > 3) {
		try_keys(atol(words[2]), atol(words[3]));
	} else {
		return 2;
	}
	printf("the end\n");
	return 0;
}
