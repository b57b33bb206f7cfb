"""The page: sends texts, shows answers, loads nothing external. All texts become text nodes, never markup."""

import base64
import hashlib
from typing import Any

from tfxfer import _html

_STYLE = (
    _html.STYLE
    + """
form{display:grid;gap:.6rem}textarea{font:inherit;color:inherit;background:var(--field);border:1px solid var(--line);
border-radius:4px;padding:.5rem;min-height:4.5rem;resize:vertical;unicode-bidi:plaintext}
button[type=submit]{justify-self:start;font:inherit;padding:.35rem 1.1rem;border-radius:4px;border:1px solid var(--a);
color:var(--paper);background:var(--a);cursor:pointer}button:disabled{opacity:.5}
.bar{display:inline-block;height:.7rem;background:var(--a);border-radius:2px;min-width:1px}
.why{line-height:1.9}.error{color:var(--b)}.w{border-radius:3px}
"""
)

_SCRIPT = """
'use strict';
const form=document.querySelector('form'),box=document.getElementById('answer'),button=form.querySelector('button');
let number=0;
function make(tag,text,kind){const e=document.createElement(tag);if(text!==undefined)e.textContent=text;
 if(kind)e.className=kind;if(kind&&kind.split(' ').includes('t'))e.dir='auto';return e}
function part(title,...content){const s=make('section');s.append(make('h2',title),...content);return s}
function table(head,rows){const t=make('table'),h=t.createTHead().insertRow(),b=t.createTBody();
 for(const name of head)h.append(make('th',name));
 for(const cells of rows){const r=b.insertRow();for(const c of cells){const td=r.insertCell();
  if(typeof c==='number'){td.className='n';td.textContent=c.toFixed(4)}else if(typeof c==='string'){
   td.append(make('span',c,'t'))}else td.append(c)}}return t}
function bar(share){const s=make('span','','bar');s.style.width=Math.max(share,0)*12+'rem';return s}
function why(found){const all=make('div','','why');all.append(make('p',found.title,'soft'));
 for(const pieces of found.texts){const line=make('div','','t');
  for(const p of pieces){const s=make('span',p.text);
   if(p.share!==null){s.className='w';s.title=p.value.toFixed(4);
    s.style.background='rgba('+(p.share<0?'220,38,38':'37,99,235')+','+0.6*Math.abs(p.share)+')'}
   line.append(s)}
  all.append(line)}
 return all}
function marked(pieces){const line=make('div','','t');
 for(const p of pieces){if(p.label===null){line.append(p.text);continue}
  const s=make('span',p.text,'e');s.title=p.probability.toFixed(4);s.append(make('sub',p.label));line.append(s)}
 return line}
function show(found){box.replaceChildren();
 if(found.error){box.append(make('p',found.error,'error'));return}
 if(found.labels)box.append(part('Labels',table(['label','probability',''],
  found.labels.map(l=>[l.label,l.probability,bar(l.probability)]))));
 if(found.numbers)box.append(part('Numbers',table(['','value'],found.numbers.map(n=>[n.name,n.value]))));
 if(found.entities)box.append(part('Entities',marked(found.entities)));
 if(found.why)box.append(part('Why',
  make('p','Blue words are evidence for the answer, red words against it.','soft'),why(found.why)));
 if(found.hits)box.append(part('Nearest',table(['score','text'],found.hits.map(h=>[h.score,h.text]))));
 if(found.note)box.append(make('p',found.note,'soft'))}
form.addEventListener('submit',async event=>{event.preventDefault();const mine=++number;button.disabled=true;
 const texts=[...form.querySelectorAll('textarea')].map(e=>e.value);
 while(texts.length>1&&!texts[texts.length-1])texts.pop();
 let found;
 try{const r=await fetch('/answer',{method:'POST',headers:{'Content-Type':'application/json'},
  body:JSON.stringify({texts})});found=await r.json()}catch(e){found={error:'No answer: '+e.message}}
 if(mine===number){show(found);button.disabled=false}});
// #text, or #text%0Aanother: asked as the page opens, so that a text can be kept as a bookmark.
if(location.hash.length>1){let given=[];
 try{given=decodeURIComponent(location.hash.slice(1)).split('\\n')}catch(e){}
 form.querySelectorAll('textarea').forEach((e,i)=>{e.value=given[i]||''});if(given.length)form.requestSubmit()}
form.addEventListener('keydown',event=>{if(event.key==='Enter'&&(event.ctrlKey||event.metaKey))form.requestSubmit()});
"""


def _hash(content):
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


# Only this script runs, whatever a text contains, and it connects only to the server that the page came from.
POLICY = (
    f"default-src 'none'; script-src {_hash(_SCRIPT)}; style-src 'unsafe-inline'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def page(form: dict[str, Any]) -> str:
    """Returns the page.

    Args:
        form: dict of `title`; `about`, a line on the model; and `texts`, a list of a label for each text.
    """
    areas = [
        f'<label>{_html.escaped(name)}<textarea style="width:100%;box-sizing:border-box" dir="auto"></textarea></label>'
        for name in form["texts"]
    ]
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{_html.escaped(form["title"])}</title>'
        f'<meta name="viewport" content="width=device-width,initial-scale=1"><style>{_STYLE}</style></head><body>'
        f'<h1>{_html.text(form["title"])}</h1><p class="soft">{_html.escaped(form["about"])}</p><form>{"".join(areas)}'
        '<button type="submit">Ask (Ctrl+Enter)</button></form>'
        f'<div id="answer" aria-live="polite"></div><script>{_SCRIPT}</script></body></html>\n'
    )
