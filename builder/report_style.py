"""How the page of ``report_html`` looks: light or dark as the reader's system is."""

from __future__ import annotations

STYLE = """
:root{color-scheme:light dark;--bg:#f6f7f9;--card:#fff;--fg:#1a1d21;--soft:#5c6570;--line:#dfe3e8;
--d0:#e6e9ee;--d1:#dde1e8;--s:58%;--l:76%;--ink:#14171a;--good:#1a7f4b;--warn:#b45309;--bad:#c0362c;
--accent:#2563c9;--bar:#7aa2e3;--waste:#e58a5f}
@media(prefers-color-scheme:dark){:root{--bg:#111418;--card:#191d23;--fg:#e6e9ed;--soft:#98a2ae;
--line:#2a3038;--d0:#232932;--d1:#2b323c;--s:34%;--l:40%;--ink:#f2f4f6;--good:#4cc38a;--warn:#e5a050;
--bad:#f0705f;--accent:#7fb0ff;--bar:#4d78bd;--waste:#c8693d}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--fg);font:14px/1.5 system-ui,"DejaVu Sans",sans-serif}
main{max-width:1264px;margin:0 auto;padding:28px 32px 64px}
h1{font-size:22px;margin:0;overflow-wrap:anywhere;line-height:1.25}
h2{font-size:15px;margin:0 0 12px}
a{color:var(--accent)}
p{margin:4px 0;color:var(--soft)}
section{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:18px 20px;
margin-top:18px;min-width:0}
dl{display:grid;grid-template-columns:max-content 1fr;gap:2px 16px;margin:12px 0 0;font-size:13px}
dt{color:var(--soft)}
dd{margin:0;overflow-wrap:anywhere;font-variant-numeric:tabular-nums}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(170px,1fr));gap:14px;margin-top:18px}
.tile{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:12px 16px}
.tile b{display:block;font-size:22px;line-height:1.3;font-weight:600}
.tile span{color:var(--soft);font-size:12px}
.two{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(440px,100%),1fr));gap:0 18px}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:13px;font-variant-numeric:tabular-nums}
th{font-weight:500;color:var(--soft);text-align:left;white-space:nowrap}
th,td{padding:5px 10px 5px 0;border-bottom:1px solid var(--line);vertical-align:top}
tr:last-child td{border-bottom:0}
.r{text-align:right;white-space:nowrap}
.path{overflow-wrap:anywhere;width:100%}
code,.path{font-family:ui-monospace,"DejaVu Sans Mono",monospace;font-size:12px}
.bar{display:flex;width:150px;height:10px;margin-top:6px;background:var(--d0);border-radius:3px;
overflow:hidden}
.bar i{background:var(--bar)}
.bar i+i{background:var(--waste)}
.name{white-space:nowrap}
.wide{width:100%}
.wide p{margin:0}
.ok,.note,.warning,.problem{font-weight:600}
.ok{color:var(--good)}
.note{color:var(--soft)}
.warning{color:var(--warn)}
.problem{color:var(--bad)}
.key{display:flex;flex-wrap:wrap;gap:4px 16px;margin-top:10px;font-size:12px;color:var(--soft)}
.key span::before,.swatch::before{content:"";display:inline-block;width:10px;height:10px;
border-radius:2px;margin-right:6px;background:hsl(var(--h) var(--s) var(--l))}
.view{display:none;scroll-margin-top:64px}
.view:target,#v0{display:block}
.view:target~#v0{display:none}
.crumbs{margin:0 0 10px;font-size:13px;overflow-wrap:anywhere}
.crumbs a{text-decoration:none;font-weight:600}
.map{position:relative;height:640px;overflow:hidden;border-radius:6px;background:var(--d0)}
.map>*{position:absolute;overflow:hidden;white-space:nowrap;text-overflow:ellipsis;
font-size:11px;font-style:normal;line-height:15px;padding:0 4px;border-radius:2px;
color:var(--ink);text-decoration:none;border:1px solid var(--card);
background:hsl(var(--h) var(--s) var(--l))}
.map>.d{background:var(--d1);color:var(--fg)}
.map>.e{background:var(--d0);color:var(--fg)}
.map>.m{background:repeating-linear-gradient(45deg,var(--d0) 0 4px,var(--d1) 4px 8px);
color:var(--soft)}
.map>a.d,.map>a.e{font-weight:600}
.map>:hover{outline:2px solid var(--accent);outline-offset:-2px}
.map small{display:block;font-size:10px;line-height:12px;opacity:.75;font-weight:400}
.k0{--h:212}.k1{--h:28}.k2{--h:145}.k3{--h:340}.k4{--h:265}
.k5{--h:178}.k6{--h:50}.k7{--h:305}.k8{--h:95}.k9{--h:8}
"""
