/* treelist ROOT: every path below ROOT on one line, with all that an image promises to keep.
 *
 * Depth first, names in byte order. The fields, separated by single spaces:
 *   path type mode uid gid mtime [what the type has] [NAME=HEX for each xattr, sorted]
 * type is f d l c b p or s; mode is octal; mtime in seconds. A regular file has its size, link
 * count, the first path with the same inode, and SHA-256; a symlink its target; a device its
 * MAJOR:MINOR. Bytes that would break a line are shown as \xNN. What the runtime puts into
 * every container (see skipped) and this program itself are left out.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <err.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

static const char *const skipped[] = {
	"/dev", "/proc", "/sys", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/treelist", NULL,
};

struct inode {
	dev_t dev;
	ino_t ino;
	char *path;
	struct inode *next;
};

static struct inode *inodes[65536];

static void *must(void *memory)
{
	if (!memory)
		err(1, "memory");
	return memory;
}

static void print_escaped(const char *text, size_t length)
{
	for (size_t i = 0; i < length; i++) {
		unsigned char byte = text[i];
		if (byte <= 0x20 || byte >= 0x7f || byte == '\\')
			printf("\\x%02x", byte);
		else
			putchar(byte);
	}
}

/* ---- SHA-256 (FIPS 180-4) ---- */

struct sha256 {
	uint32_t state[8];
	uint8_t block[64];
	uint64_t length;
};

static const uint32_t round_constants[64] = {
	0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
	0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
	0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
	0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
	0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
	0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
	0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
	0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};

static uint32_t rotate(uint32_t word, int bits)
{
	return word >> bits | word << (32 - bits);
}

static void sha256_block(struct sha256 *hash)
{
	uint32_t words[64], s[8];

	for (int i = 0; i < 16; i++)
		words[i] = (uint32_t)hash->block[4 * i] << 24 | hash->block[4 * i + 1] << 16
			| hash->block[4 * i + 2] << 8 | hash->block[4 * i + 3];
	for (int i = 16; i < 64; i++) {
		uint32_t a = words[i - 15], b = words[i - 2];
		words[i] = words[i - 16] + words[i - 7] + (rotate(a, 7) ^ rotate(a, 18) ^ a >> 3)
			+ (rotate(b, 17) ^ rotate(b, 19) ^ b >> 10);
	}
	memcpy(s, hash->state, sizeof s);
	for (int i = 0; i < 64; i++) {
		uint32_t one = s[7] + (rotate(s[4], 6) ^ rotate(s[4], 11) ^ rotate(s[4], 25))
			+ ((s[4] & s[5]) ^ (~s[4] & s[6])) + round_constants[i] + words[i];
		uint32_t two = (rotate(s[0], 2) ^ rotate(s[0], 13) ^ rotate(s[0], 22))
			+ ((s[0] & s[1]) ^ (s[0] & s[2]) ^ (s[1] & s[2]));
		memmove(s + 1, s, 7 * sizeof *s);
		s[4] += one;
		s[0] = one + two;
	}
	for (int i = 0; i < 8; i++)
		hash->state[i] += s[i];
}

static void sha256_add(struct sha256 *hash, const uint8_t *data, size_t length)
{
	while (length) {
		size_t used = hash->length % 64;
		size_t taken = length < 64 - used ? length : 64 - used;
		memcpy(hash->block + used, data, taken);
		hash->length += taken;
		data += taken;
		length -= taken;
		if (hash->length % 64 == 0)
			sha256_block(hash);
	}
}

static void sha256_print(struct sha256 *hash)
{
	uint64_t bits = hash->length * 8;
	uint8_t tail[72] = { 0x80 };
	size_t padding = (119 - hash->length % 64) % 64 + 1;

	for (int i = 0; i < 8; i++)
		tail[padding + i] = bits >> (56 - 8 * i);
	sha256_add(hash, tail, padding + 8);
	for (int i = 0; i < 8; i++)
		printf("%08x", hash->state[i]);
}

static void print_digest(const char *name)
{
	static uint8_t buffer[1 << 16];
	struct sha256 hash = {
		.state = { 0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
			   0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19 },
	};
	ssize_t got;
	int fd = open(name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);

	if (fd < 0)
		err(1, "open %s", name);
	while ((got = read(fd, buffer, sizeof buffer)) > 0)
		sha256_add(&hash, buffer, got);
	if (got < 0)
		err(1, "read %s", name);
	close(fd);
	sha256_print(&hash);
}

/* ---- one path ---- */

static const char *first_path(const struct stat *st, const char *path)
{
	struct inode **slot = &inodes[st->st_ino % 65536];

	for (struct inode *known = *slot; known; known = known->next)
		if (known->dev == st->st_dev && known->ino == st->st_ino)
			return known->path;
	struct inode *fresh = must(malloc(sizeof *fresh));
	*fresh = (struct inode){ st->st_dev, st->st_ino, must(strdup(path)), *slot };
	*slot = fresh;
	return path;
}

static int by_text(const void *left, const void *right)
{
	return strcmp(*(char *const *)left, *(char *const *)right);
}

static void print_xattrs(const char *name)
{
	static char names[65536];
	static unsigned char value[65536];
	char *sorted[4096];
	size_t count = 0;
	ssize_t size = llistxattr(name, names, sizeof names);

	if (size < 0)
		err(1, "llistxattr %s", name);
	for (char *at = names; at < names + size; at += strlen(at) + 1)
		if (strncmp(at, "trusted.", 8) != 0 && count < 4096)
			sorted[count++] = at;
	qsort(sorted, count, sizeof *sorted, by_text);
	for (size_t i = 0; i < count; i++) {
		ssize_t length = lgetxattr(name, sorted[i], value, sizeof value);
		if (length < 0)
			err(1, "lgetxattr %s %s", name, sorted[i]);
		putchar(' ');
		print_escaped(sorted[i], strlen(sorted[i]));
		putchar('=');
		for (ssize_t j = 0; j < length; j++)
			printf("%02x", value[j]);
	}
}

static char type_letter(mode_t mode)
{
	switch (mode & S_IFMT) {
	case S_IFREG: return 'f';
	case S_IFDIR: return 'd';
	case S_IFLNK: return 'l';
	case S_IFCHR: return 'c';
	case S_IFBLK: return 'b';
	case S_IFIFO: return 'p';
	default: return 's';
	}
}

static void print_entry(const char *path, const char *name, const struct stat *st)
{
	static char target[65536];
	char type = type_letter(st->st_mode);

	print_escaped(path, strlen(path));
	printf(" %c %04o %u %u %lld", type, (unsigned)st->st_mode & 07777, st->st_uid, st->st_gid,
	       (long long)st->st_mtim.tv_sec);
	if (type == 'f') {
		const char *first = first_path(st, path);
		printf(" %lld %lu ", (long long)st->st_size, (unsigned long)st->st_nlink);
		print_escaped(first, strlen(first));
		putchar(' ');
		print_digest(name);
	} else if (type == 'l') {
		ssize_t length = readlink(name, target, sizeof target);
		if (length < 0)
			err(1, "readlink %s", path);
		putchar(' ');
		print_escaped(target, length);
	} else if (type == 'c' || type == 'b') {
		printf(" %u:%u", major(st->st_rdev), minor(st->st_rdev));
	}
	print_xattrs(name);
	putchar('\n');
}

/* ---- the walk; it changes directory, so that no path is too long ---- */

static int is_skipped(const char *path)
{
	for (const char *const *one = skipped; *one; one++)
		if (strcmp(path, *one) == 0)
			return 1;
	return 0;
}

static char **sorted_names(size_t *count)
{
	char **names = NULL;
	struct dirent *entry;
	DIR *stream = opendir(".");

	if (!stream)
		err(1, "opendir");
	for (*count = 0; (entry = readdir(stream));) {
		if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
			continue;
		if ((*count & (*count + 1)) == 0)
			names = must(realloc(names, (2 * *count + 2) * sizeof *names));
		names[(*count)++] = must(strdup(entry->d_name));
	}
	closedir(stream);
	if (*count)
		qsort(names, *count, sizeof *names, by_text);
	return names;
}

static void walk(const char *directory)
{
	size_t count;
	char **names = sorted_names(&count);
	int here = open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (here < 0)
		err(1, "open %s", directory);
	for (size_t i = 0; i < count; i++) {
		struct stat st;
		char *path;

		if (asprintf(&path, "%s/%s", directory, names[i]) < 0)
			err(1, "memory");
		if (!is_skipped(path)) {
			if (lstat(names[i], &st) < 0)
				err(1, "lstat %s", path);
			print_entry(path, names[i], &st);
			if (S_ISDIR(st.st_mode)) {
				if (chdir(names[i]) < 0)
					err(1, "chdir %s", path);
				walk(path);
				if (fchdir(here) < 0)
					err(1, "fchdir %s", directory);
			}
		}
		free(path);
		free(names[i]);
	}
	free(names);
	close(here);
}

int main(int argc, char **argv)
{
	struct stat st;

	if (argc != 2)
		errx(2, "usage: treelist ROOT");
	if (chdir(argv[1]) < 0 || lstat(".", &st) < 0)
		err(1, "%s", argv[1]);
	print_entry("/", ".", &st);
	walk("");
	if (fflush(stdout) || ferror(stdout))
		err(1, "stdout");
	return 0;
}
