// SPDX-License-Identifier: GPL-2.0
/*
 * picture [-c] [-d DEVICE] [-o FILE.svg]: draws where each page of a range is, by the
 * snapshot of lib/test_hmm_migrate.c: before it migrates, on the device, and after
 * the return. A cell is a page. By letters and digits: the first page of a folio is
 * a letter, which says where it is, and the other ones are its order. With -c, for a
 * terminal, by 256 colours, which say where it is, and the folios' outlines; and so
 * in the SVG.
 *
 * Fails if memory stays behind, or if a folio is not the same size afterwards.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <lib/test_hmm_migrate_uapi.h>

#include "folios.h"

#define HUGE_PAGE	(2UL << 20)
#define COLUMNS		64UL
#define CELL		10UL
#define MARGIN		20UL

/* What the range is made of, in this order. */
static const struct stretch {
	unsigned int order;
	unsigned long npages;
} stretches[] = {
	{ 9, 512 }, { 4, 128 }, { 0, 64 },
};

#define NR_STRETCHES	(sizeof(stretches) / sizeof(stretches[0]))

static const struct colour {
	const char *name;
	char letter;
	unsigned int terminal;
	const char *svg;
} colours[] = {
	[TEST_HMM_MIGRATE_NONE] = { "nothing", '.', 236, "#eeeeee" },
	[TEST_HMM_MIGRATE_ZERO] = { "zero page", 'Z', 248, "#bcbcbc" },
	[TEST_HMM_MIGRATE_SYSTEM] = { "ordinary memory", 'M', 25, "#4a90d9" },
	[TEST_HMM_MIGRATE_THIS_DEVICE] = { "the device", 'D', 166, "#f28e2b" },
	[TEST_HMM_MIGRATE_OTHER_DEVICE] = { "another device", 'O', 91, "#9467bd" },
	[TEST_HMM_MIGRATE_SWAPPED] = { "swapped out", 'S', 240, "#8c8c8c" },
	[TEST_HMM_MIGRATE_MIGRATING] = { "on its way", 'W', 184, "#edc948" },
	[TEST_HMM_MIGRATE_INVALID] = { "not mapped", '-', 160, "#e15759" },
};

#define NR_COLOURS	(sizeof(colours) / sizeof(colours[0]))
#define NR_PANELS	3

/* The range at one moment. */
struct panel {
	const char *title;
	struct test_hmm_migrate_page *pages;
};

static unsigned long page_size, npages;

static void fail(const char *what)
{
	fprintf(stderr, "picture: %s: %s\n", what, strerror(errno));
	exit(1);
}

/* Do the cells of these pages belong to the same folio? */
static bool same_folio(const struct panel *panel, unsigned long a, unsigned long b)
{
	const struct test_hmm_migrate_page *pages = panel->pages;

	return a < npages && b < npages && pages[a].where == pages[b].where &&
	       pages[a].folio_order == pages[b].folio_order &&
	       pages[a].folio_order &&
	       a - pages[a].folio_index == b - pages[b].folio_index;
}

/* The borders of a cell: is what lies there not of the same folio? */
static bool border_left(const struct panel *panel, unsigned long i)
{
	return i % COLUMNS == 0 || !same_folio(panel, i, i - 1);
}

static bool border_right(const struct panel *panel, unsigned long i)
{
	return i % COLUMNS == COLUMNS - 1 || !same_folio(panel, i, i + 1);
}

static bool border_above(const struct panel *panel, unsigned long i)
{
	return i < COLUMNS || !same_folio(panel, i, i - COLUMNS);
}

static bool border_below(const struct panel *panel, unsigned long i)
{
	return !same_folio(panel, i, i + COLUMNS);
}

/* Which colours are in any of the panels. */
static bool is_used(const struct panel *panels, unsigned int where)
{
	unsigned long i;
	int p;

	for (p = 0; p < NR_PANELS; p++)
		for (i = 0; i < npages; i++)
			if (panels[p].pages[i].where == where)
				return true;
	return false;
}

static void draw_terminal(const struct panel *panels)
{
	const struct panel *panel;
	unsigned long i;
	unsigned int c;

	for (panel = panels; panel < panels + NR_PANELS; panel++) {
		printf("\n%s\n", panel->title);
		for (i = 0; i < npages; i++) {
			/* A line to the left; and one below, by underlining. */
			printf("\033[48;5;%u;38;5;231%sm%s\033[0m",
			       colours[panel->pages[i].where].terminal,
			       border_below(panel, i) ? ";4" : "",
			       border_left(panel, i) ? "\u258f" : " ");
			if (i % COLUMNS == COLUMNS - 1 || i == npages - 1)
				printf("\n");
		}
	}
	printf("\n");
	for (c = 0; c < NR_COLOURS; c++)
		if (is_used(panels, c))
			printf("\033[48;5;%um  \033[0m %s  ", colours[c].terminal,
			       colours[c].name);
	printf("\n");
}

/* The letter or digit of page @i, see the top of this file. */
static char page_letter(const struct panel *panel, unsigned long i)
{
	const struct test_hmm_migrate_page *page = &panel->pages[i];

	if (page->folio_order && page->folio_index)
		return page->folio_order <= 9 ? '0' + page->folio_order : '+';
	return colours[page->where].letter;
}

static void draw_text(const struct panel *panels)
{
	const struct panel *panel;
	unsigned long i;
	unsigned int c;

	for (panel = panels; panel < panels + NR_PANELS; panel++) {
		printf("\n%s\n", panel->title);
		for (i = 0; i < npages; i++) {
			putchar(page_letter(panel, i));
			if (i % COLUMNS == COLUMNS - 1 || i == npages - 1)
				putchar('\n');
		}
	}
	printf("\nA letter begins a folio; the digits after it are its order n, of 2^n pages.\n");
	for (c = 0; c < NR_COLOURS; c++)
		if (is_used(panels, c))
			printf("%c %s  ", colours[c].letter, colours[c].name);
	printf("\n");
}

static void draw_svg_panel(FILE *file, const struct panel *panel, unsigned long y)
{
	unsigned long i;

	fprintf(file, "<text x=\"%lu\" y=\"%lu\">%s</text>\n", MARGIN, y, panel->title);
	y += MARGIN / 2;
	fprintf(file, "<g stroke=\"white\" stroke-opacity=\"0.4\" stroke-width=\"0.7\">\n");
	for (i = 0; i < npages; i++)
		fprintf(file, "<rect x=\"%lu\" y=\"%lu\" width=\"%lu\" height=\"%lu\" fill=\"%s\"/>\n",
			MARGIN + i % COLUMNS * CELL, y + i / COLUMNS * CELL, CELL, CELL,
			colours[panel->pages[i].where].svg);
	fprintf(file, "</g>\n");
	fprintf(file, "<path stroke=\"#222222\" stroke-width=\"1.2\" fill=\"none\" d=\"");
	for (i = 0; i < npages; i++) {
		unsigned long left = MARGIN + i % COLUMNS * CELL;
		unsigned long above = y + i / COLUMNS * CELL;

		if (border_left(panel, i))
			fprintf(file, "M%lu %luv%lu", left, above, CELL);
		if (border_right(panel, i))
			fprintf(file, "M%lu %luv%lu", left + CELL, above, CELL);
		if (border_above(panel, i))
			fprintf(file, "M%lu %luh%lu", left, above, CELL);
		if (border_below(panel, i))
			fprintf(file, "M%lu %luh%lu", left, above + CELL, CELL);
	}
	fprintf(file, "\"/>\n");
}

static void draw_svg(const char *path, const struct panel *panels)
{
	unsigned long rows = (npages + COLUMNS - 1) / COLUMNS;
	unsigned long height = rows * CELL + 2 * MARGIN, x = MARGIN;
	FILE *file = fopen(path, "w");
	unsigned int c;
	int p;

	if (!file)
		fail(path);
	fprintf(file, "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%lu\" height=\"%lu\" font-family=\"sans-serif\" font-size=\"13\">\n"
		"<rect width=\"100%%\" height=\"100%%\" fill=\"white\"/>\n",
		COLUMNS * CELL + 2 * MARGIN, NR_PANELS * height + 2 * MARGIN);
	for (p = 0; p < NR_PANELS; p++)
		draw_svg_panel(file, &panels[p], MARGIN + p * height);
	for (c = 0; c < NR_COLOURS; c++) {
		if (!is_used(panels, c))
			continue;
		fprintf(file, "<rect x=\"%lu\" y=\"%lu\" width=\"%lu\" height=\"%lu\" fill=\"%s\"/>\n",
			x, NR_PANELS * height, CELL, CELL, colours[c].svg);
		fprintf(file, "<text x=\"%lu\" y=\"%lu\">%s</text>\n", x + 2 * CELL,
			NR_PANELS * height + CELL, colours[c].name);
		x += 8 * MARGIN;
	}
	fprintf(file, "</svg>\n");
	if (fclose(file))
		fail(path);
}

static unsigned char byte_of(unsigned long page)
{
	return page * 37 + 11;
}

static unsigned char *make_range(void)
{
	unsigned char *area, *memory, *at;
	unsigned long i, page = 0;
	unsigned int s;

	for (s = 0; s < NR_STRETCHES; s++)
		npages += stretches[s].npages;
	area = mmap(NULL, npages * page_size + HUGE_PAGE, PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (area == MAP_FAILED)
		fail("no memory");
	memory = (void *)(((uintptr_t)area + HUGE_PAGE - 1) & ~(HUGE_PAGE - 1));
	at = memory;
	for (s = 0; s < NR_STRETCHES; s++) {
		if (!choose_order(stretches[s].order, page_size))
			fail("the folios' size cannot be chosen");
		for (i = 0; i < stretches[s].npages; i++, at += page_size)
			memset(at, byte_of(page++), page_size);
	}
	choose_order(0, page_size);
	return memory;
}

static bool intact(const unsigned char *memory)
{
	unsigned long i;

	for (i = 0; i < npages * page_size; i++)
		if (memory[i] != byte_of(i / page_size))
			return false;
	return true;
}

static void take(int fd, void *memory, struct panel *panel, const char *title)
{
	struct test_hmm_migrate_snapshot snapshot = {
		.size = sizeof(snapshot),
		.addr = (uintptr_t)memory,
		.length = npages * page_size,
	};

	panel->title = title;
	panel->pages = calloc(npages, sizeof(*panel->pages));
	snapshot.buffer = (uintptr_t)panel->pages;
	if (!panel->pages || ioctl(fd, TEST_HMM_MIGRATE_SNAPSHOT, &snapshot))
		fail("no snapshot");
}

static void migrate(int fd, void *memory, unsigned long request)
{
	struct test_hmm_migrate_range range = {
		.size = sizeof(range),
		.flags = TEST_HMM_MIGRATE_LARGE,
		.addr = (uintptr_t)memory,
		.length = npages * page_size,
	};

	if (ioctl(fd, request, &range))
		fail("cannot migrate");
}

/* Is all of it @where, in folios of the orders of @before? */
static bool is_as(const struct panel *panel, const struct panel *before,
		  unsigned int where)
{
	unsigned long i;

	for (i = 0; i < npages; i++)
		if (panel->pages[i].where != where ||
		    panel->pages[i].folio_order != before->pages[i].folio_order ||
		    panel->pages[i].folio_index != before->pages[i].folio_index)
			return false;
	return true;
}

int main(int argc, char **argv)
{
	const char *device = "/dev/hmm_migrate0", *svg = NULL;
	struct panel panels[NR_PANELS];
	bool coloured = false, good;
	unsigned char *memory;
	int option, fd;

	while ((option = getopt(argc, argv, "cd:o:")) != -1) {
		if (option == 'c')
			coloured = true;
		else if (option == 'd')
			device = optarg;
		else if (option == 'o')
			svg = optarg;
		else
			return 2;
	}
	page_size = sysconf(_SC_PAGESIZE);
	fd = open(device, O_RDWR);
	if (fd < 0)
		fail(device);
	memory = make_range();
	take(fd, memory, &panels[0], "before: one folio of 2 MiB, eight of 64 KiB, 64 pages");
	migrate(fd, memory, TEST_HMM_MIGRATE_TO_DEVICE);
	take(fd, memory, &panels[1], "on the device");
	migrate(fd, memory, TEST_HMM_MIGRATE_TO_SYSTEM);
	take(fd, memory, &panels[2], "after");
	if (coloured)
		draw_terminal(panels);
	else
		draw_text(panels);
	if (svg)
		draw_svg(svg, panels);
	good = is_as(&panels[0], &panels[0], TEST_HMM_MIGRATE_SYSTEM) &&
	       is_as(&panels[1], &panels[0], TEST_HMM_MIGRATE_THIS_DEVICE) &&
	       is_as(&panels[2], &panels[0], TEST_HMM_MIGRATE_SYSTEM) &&
	       intact(memory);
	printf("%s\n", good ? "Each folio went whole, and came back whole and intact." :
			      "Some of it did not move, is in other folios, or is not intact.");
	return !good;
}
