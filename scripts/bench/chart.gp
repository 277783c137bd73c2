# SPDX-License-Identifier: GPL-2.0
# gnuplot -e "dir='...'" chart.gp: dir/bars.dat, dir/ranges.dat, dir/chunks.dat -> dir/*.svg
set encoding utf8
set terminal svg size 1400,540 font 'sans-serif,13' background 'white'
set border 3 lc rgb '#666666'
set tics nomirror out
set bmargin 4
set grid ytics lc rgb '#dddddd' lt 1

stock = '#9a9a9a'
series = '#1f77b4'
mainline = '#e0a030'

# Bars from the bottom of the chart up: the figures span three orders of magnitude, and
# the smallest is 9.
bottom = 1
set output dir.'/bench.svg'
set title 'Migrating to device memory and back: instructions per 4 KiB page, contents not copied'
set ylabel 'instructions per page (logarithmic)'
set logscale y
set yrange [1:50000]
set format y '%.0f'
set style fill solid 1
set boxwidth 0.28
set key top right horizontal
# 0 stands for no figure: no bar, and the label says why.
shown(v) = column(v) > bottom ? column(v) : bottom
plot dir.'/bars.dat' using ($0 - 0.3):(shown(2)):xtic(1) with boxes lc rgb stock title 'stock 6.12', \
     '' using ($0):(shown(6)) with boxes lc rgb mainline title 'mainline 7.3.4', \
     '' using ($0 + 0.3):(shown(4)) with boxes lc rgb series title 'series on 6.12', \
     '' using ($0 - 0.3):(shown(2)):3 with labels offset 0,0.6 font ',8' notitle, \
     '' using ($0):(shown(6)):7 with labels offset 0,0.6 font ',8' notitle, \
     '' using ($0 + 0.3):(shown(4)):5 with labels offset 0,0.6 font ',8' notitle

set output dir.'/bench-range.svg'
set title 'Instructions per 4 KiB page against the size of the range, 4 KiB pages, one call'
set xlabel 'range in MiB'
set ylabel 'instructions per page'
unset logscale y
set logscale x 2
set xrange [1.5:700]
set yrange [0:*]
set xtics (2, 8, 32, 128, 512)
set key bottom right
plot dir.'/ranges.dat' using 1:2 with linespoints lw 2 pt 7 lc rgb stock title 'stock, to the device', \
     '' using 1:3 with linespoints lw 2 pt 6 dt 2 lc rgb stock title 'stock, back', \
     '' using 1:4 with linespoints lw 2 pt 7 lc rgb series title 'series, to the device', \
     '' using 1:5 with linespoints lw 2 pt 6 dt 2 lc rgb series title 'series, back'

set output dir.'/bench-chunk.svg'
set title 'hmm_migrate_range(): 64 MiB to the device by an engine of 20 GB/s and 10 us latency'
set xlabel 'size of a chunk in KiB'
set ylabel 'GB/s'
set logscale x 2
set xrange [56:75000]
set yrange [0:*]
set xtics (64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536)
set key top left
plot dir.'/chunks.dat' using 1:5 with linespoints lw 2 pt 7 lc rgb '#1f77b4' title '2 MiB THP', \
     '' using 1:4 with linespoints lw 2 pt 5 lc rgb '#2ca02c' title '64 KiB folios', \
     '' using 1:2 with linespoints lw 2 pt 9 lc rgb '#9a9a9a' title '4 KiB pages', \
     '' using 1:3 with linespoints lw 2 pt 8 lc rgb '#9a9a9a' dt 2 title '4 KiB pages, scattered'
