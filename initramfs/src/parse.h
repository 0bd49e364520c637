/* The boot spec's small formats (docs/hyperstart.md, "Boot spec"). Nothing here makes a system call. */
#ifndef HYPERSTART_PARSE_H
#define HYPERSTART_PARSE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { GROUPS_MAX = 1024, MAC_SIZE = 6, UUID_SIZE = 16 };

struct user {
	uint32_t uid;
	uint32_t gid;
	uint32_t groups[GROUPS_MAX];
	size_t group_count;
};

/* How a root device is named: by its path, by its file system's UUID, or by the ISO 9660 volume that
 * has the file system as a file. */
enum place { AT_PATH, BY_UUID, ON_VOLUME };

struct root_device {
	enum place place;
	char *device; /* the path, or the volume's name */
	char *type;
	bool dax;
	uint8_t uuid[UUID_SIZE];
};

struct network {
	bool is_dhcp; /* the kernel has asked for an address already */
	bool has_address;
	bool has_gateway;
	bool has_mac;
	uint8_t prefix;
	uint32_t address; /* in network byte order, as gateway */
	uint32_t gateway;
	uint8_t mac[MAC_SIZE];
};

/* When the health check runs: times in milliseconds. */
struct health_times {
	uint64_t interval;
	uint64_t timeout;
	uint64_t start_period;   /* failures do not count for so long */
	uint64_t start_interval; /* the interval meanwhile, until it is healthy */
	uint64_t retries;        /* so many failures in a row make it unhealthy */
};

/* How large a terminal is; zeros if nobody knows. */
struct terminal_size {
	uint16_t rows;
	uint16_t columns;
};

/* Each returns 0, or -1 if text breaks the format. text is NUL-terminated at text[size] and may be
 * written to; results point into it. */
int parse_strings(char *text, size_t size, char **strings, size_t limit);
int parse_number(const char *text, uint64_t limit, uint64_t *number);
int parse_user(char *text, struct user *user);
int parse_root_device(char *text, struct root_device *root);
int parse_network(char *text, struct network *network);
int parse_health_times(char *text, struct health_times *times);
int parse_terminal_size(char *text, struct terminal_size *size);

/* Copies those lines of /proc/net/pnp, which tells what DHCP told, that belong into resolv.conf. Returns
 * their size, at most room. */
size_t pick_resolvers(const char *told, char *picked, size_t room);

struct listener {
	uint16_t port;
	bool is_loopback; /* only the VM itself can reach it */
};

/* Finds the first listener in the text of /proc/net/tcp or tcp6. Returns where to look for the next
 * one, NULL if there is none. */
const char *next_listener(const char *table, struct listener *found);

#endif
