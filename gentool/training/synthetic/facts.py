"""Tables of general knowledge behind the synthetic few-shot documents.

Pure literals, written as blocks of "key:value" words so that they stay readable; the helpers
below turn a block into a dictionary or a tuple once, at import.
"""


def _table(block: str) -> dict[str, str]:
    """Read a block of blank-separated ``key:value`` words."""
    return dict(item.split(":") for item in block.split())


def _pair_list(block: str) -> tuple[tuple[str, str], ...]:
    """Read a block of blank-separated ``left:right`` words, where keys may repeat."""
    return tuple((left, right) for left, right in (item.split(":") for item in block.split()))


# The countries readers ask about most; they are drawn more often than the others.
FAMOUS_CAPITALS: dict[str, str] = _table("""
    中国:北京 日本:东京 韩国:首尔 朝鲜:平壤 蒙古:乌兰巴托 越南:河内 老挝:万象 柬埔寨:金边
    泰国:曼谷 缅甸:内比都 马来西亚:吉隆坡 新加坡:新加坡 印度尼西亚:雅加达 菲律宾:马尼拉
    印度:新德里 巴基斯坦:伊斯兰堡 尼泊尔:加德满都 孟加拉国:达卡 阿富汗:喀布尔 伊朗:德黑兰
    伊拉克:巴格达 沙特阿拉伯:利雅得 土耳其:安卡拉 哈萨克斯坦:阿斯塔纳 俄罗斯:莫斯科
    乌克兰:基辅 波兰:华沙 德国:柏林 法国:巴黎 英国:伦敦 爱尔兰:都柏林 意大利:罗马
    西班牙:马德里 葡萄牙:里斯本 荷兰:阿姆斯特丹 比利时:布鲁塞尔 瑞士:伯尔尼 奥地利:维也纳
    匈牙利:布达佩斯 捷克:布拉格 希腊:雅典 瑞典:斯德哥尔摩 挪威:奥斯陆 芬兰:赫尔辛基
    丹麦:哥本哈根 冰岛:雷克雅未克 埃及:开罗 南非:比勒陀利亚 肯尼亚:内罗毕 摩洛哥:拉巴特
    美国:华盛顿 加拿大:渥太华 墨西哥:墨西哥城 古巴:哈瓦那 巴西:巴西利亚 智利:圣地亚哥
    阿根廷:布宜诺斯艾利斯 秘鲁:利马 澳大利亚:堪培拉 新西兰:惠灵顿
""")

OTHER_CAPITALS: dict[str, str] = _table("""
    文莱:斯里巴加湾市 东帝汶:帝力 不丹:廷布 马尔代夫:马累 斯里兰卡:科伦坡 以色列:耶路撒冷
    叙利亚:大马士革 黎巴嫩:贝鲁特 约旦:安曼 科威特:科威特城 巴林:麦纳麦 卡塔尔:多哈
    阿联酋:阿布扎比 阿曼:马斯喀特 也门:萨那 塞浦路斯:尼科西亚 格鲁吉亚:第比利斯
    亚美尼亚:埃里温 阿塞拜疆:巴库 乌兹别克斯坦:塔什干 土库曼斯坦:阿什哈巴德
    吉尔吉斯斯坦:比什凯克 塔吉克斯坦:杜尚别 白俄罗斯:明斯克 爱沙尼亚:塔林 拉脱维亚:里加
    立陶宛:维尔纽斯 摩尔多瓦:基希讷乌 罗马尼亚:布加勒斯特 保加利亚:索非亚 塞尔维亚:贝尔格莱德
    克罗地亚:萨格勒布 斯洛文尼亚:卢布尔雅那 斯洛伐克:布拉迪斯拉发 波黑:萨拉热窝
    黑山:波德戈里察 北马其顿:斯科普里 阿尔巴尼亚:地拉那 卢森堡:卢森堡 摩纳哥:摩纳哥
    列支敦士登:瓦杜兹 安道尔:安道尔城 圣马力诺:圣马力诺 梵蒂冈:梵蒂冈城 马耳他:瓦莱塔
    利比亚:的黎波里 突尼斯:突尼斯市 阿尔及利亚:阿尔及尔 苏丹:喀土穆 南苏丹:朱巴
    埃塞俄比亚:亚的斯亚贝巴 厄立特里亚:阿斯马拉 吉布提:吉布提市 索马里:摩加迪沙 乌干达:坎帕拉
    坦桑尼亚:多多马 卢旺达:基加利 布隆迪:基特加 塞舌尔:维多利亚 毛里求斯:路易港
    马达加斯加:塔那那利佛 科摩罗:莫罗尼 莫桑比克:马普托 马拉维:利隆圭 赞比亚:卢萨卡
    津巴布韦:哈拉雷 博茨瓦纳:哈博罗内 纳米比亚:温得和克 安哥拉:罗安达 莱索托:马塞卢
    斯威士兰:姆巴巴内 刚果（金）:金沙萨 刚果（布）:布拉柴维尔 加蓬:利伯维尔 喀麦隆:雅温得
    中非:班吉 乍得:恩贾梅纳 赤道几内亚:马拉博 圣多美和普林西比:圣多美 尼日利亚:阿布贾
    尼日尔:尼亚美 贝宁:波多诺伏 多哥:洛美 加纳:阿克拉 科特迪瓦:亚穆苏克罗
    布基纳法索:瓦加杜古 马里:巴马科 毛里塔尼亚:努瓦克肖特 塞内加尔:达喀尔 冈比亚:班珠尔
    几内亚:科纳克里 几内亚比绍:比绍 塞拉利昂:弗里敦 利比里亚:蒙罗维亚 佛得角:普拉亚
    危地马拉:危地马拉城 伯利兹:贝尔莫潘 萨尔瓦多:圣萨尔瓦多 洪都拉斯:特古西加尔巴
    尼加拉瓜:马那瓜 哥斯达黎加:圣何塞 巴拿马:巴拿马城 牙买加:金斯敦 海地:太子港
    多米尼加:圣多明各 多米尼克:罗索 巴哈马:拿骚 巴巴多斯:布里奇敦 格林纳达:圣乔治
    圣卢西亚:卡斯特里 安提瓜和巴布达:圣约翰 圣基茨和尼维斯:巴斯特尔
    圣文森特和格林纳丁斯:金斯敦 特立尼达和多巴哥:西班牙港 哥伦比亚:波哥大 委内瑞拉:加拉加斯
    圭亚那:乔治敦 苏里南:帕拉马里博 厄瓜多尔:基多 玻利维亚:苏克雷 巴拉圭:亚松森
    乌拉圭:蒙得维的亚 巴布亚新几内亚:莫尔斯比港 所罗门群岛:霍尼亚拉 瓦努阿图:维拉港
    斐济:苏瓦 萨摩亚:阿皮亚 汤加:努库阿洛法 图瓦卢:富纳富提 基里巴斯:塔拉瓦
    马绍尔群岛:马朱罗 密克罗尼西亚联邦:帕利基尔 帕劳:恩吉鲁穆德 瑙鲁:亚伦
""")

CAPITALS: dict[str, str] = FAMOUS_CAPITALS | OTHER_CAPITALS

OPPOSITES: tuple[tuple[str, str], ...] = _pair_list("""
    大:小 多:少 高:低 长:短 上:下 左:右 前:后 里:外 内:外 东:西 南:北 天:地 黑:白 冷:热
    快:慢 早:晚 新:旧 好:坏 远:近 轻:重 粗:细 厚:薄 宽:窄 深:浅 胖:瘦 美:丑 真:假 对:错
    开:关 来:去 进:退 出:入 升:降 买:卖 借:还 生:死 哭:笑 爱:恨 男:女 老:少 强:弱 软:硬
    干:湿 明:暗 日:夜 首:尾 头:尾 公:私 善:恶 是:非 有:无 得:失 胜:败 输:赢 贵:贱 富:穷
    松:紧 饱:饿 甜:苦 香:臭 动:静 正:反 阴:阳 虚:实 难:易 古:今 始:终 吉:凶 祸:福 攻:守
    收:放 加:减 增:减 曲:直 横:竖 雅:俗 清:浊 安:危 存:亡 主:次 聚:散 浓:淡 稀:密
    高兴:难过 快乐:悲伤 开心:伤心 成功:失败 胜利:失败 安全:危险 简单:复杂 容易:困难
    干净:肮脏 美丽:丑陋 勇敢:胆小 勤劳:懒惰 勤奋:懒惰 聪明:愚蠢 诚实:虚伪 骄傲:谦虚
    热情:冷淡 温暖:寒冷 炎热:寒冷 光明:黑暗 明亮:昏暗 坚强:软弱 坚硬:柔软 粗心:细心
    大方:小气 慷慨:吝啬 善良:凶恶 喜欢:讨厌 热爱:憎恨 表扬:批评 赞成:反对 同意:反对
    支持:反对 进步:退步 前进:后退 上升:下降 增加:减少 开始:结束 出现:消失 记住:忘记
    打开:关闭 集合:解散 团结:分裂 整齐:杂乱 安静:吵闹 热闹:冷清 繁荣:萧条 先进:落后
    积极:消极 主动:被动 主要:次要 重要:次要 直接:间接 公开:秘密 肯定:否定 乐观:悲观
    幸福:痛苦 贫穷:富裕 节约:浪费 节省:浪费 宽敞:狭窄 宽阔:狭窄 遥远:临近 暂时:永久
    平坦:崎岖 清楚:模糊 清晰:模糊 熟悉:陌生 拥挤:宽松 潮湿:干燥 新鲜:腐烂 茂密:稀疏
    富有:贫困 优点:缺点 长处:短处 朋友:敌人 白天:黑夜 早晨:傍晚 过去:未来 古代:现代
    城市:乡村 战争:和平 希望:绝望 真实:虚假 正确:错误 优秀:低劣 紧张:放松 严肃:活泼
    保护:破坏 建设:破坏 创造:毁灭 吸收:排放 分散:集中 扩大:缩小 提高:降低 延长:缩短
""")

# Noun -> its most usual measure word.
MEASURES: dict[str, str] = _table("""
    书:本 词典:本 杂志:本 小说:本 日记:本 猫:只 狗:只 鸡:只 鸭:只 鸟:只 羊:只 兔子:只
    老虎:只 猴子:只 青蛙:只 蝴蝶:只 蜜蜂:只 手:只 眼睛:只 纸:张 桌子:张 床:张 照片:张
    地图:张 票:张 嘴:张 邮票:张 牛:头 猪:头 大象:头 狮子:头 驴:头 马:匹 骆驼:匹 狼:只
    鱼:条 蛇:条 河:条 路:条 裤子:条 裙子:条 毛巾:条 领带:条 腿:条 龙:条 围巾:条 街:条
    衣服:件 毛衣:件 衬衫:件 外套:件 礼物:件 事情:件 行李:件 鞋:双 袜子:双 筷子:双 手套:双
    车:辆 汽车:辆 自行车:辆 卡车:辆 火车:列 飞机:架 钢琴:架 相机:架 船:艘 军舰:艘 树:棵
    草:棵 白菜:棵 松树:棵 花:朵 云:朵 玫瑰:朵 蘑菇:朵 山:座 桥:座 城市:座 塔:座 岛:座
    宫殿:座 刀:把 伞:把 椅子:把 钥匙:把 尺子:把 剪刀:把 锁:把 扇子:把 笔:支 铅笔:支
    钢笔:支 毛笔:支 蜡烛:支 歌:首 诗:首 曲子:首 电影:部 手机:部 电话:部 电视:台 电脑:台
    冰箱:台 洗衣机:台 机器:台 空调:台 星星:颗 牙齿:颗 糖:颗 珍珠:颗 钉子:颗 心:颗 门:扇
    窗户:扇 房子:间 教室:间 卧室:间 商店:家 医院:家 银行:家 饭店:家 公司:家 工厂:家 信:封
    文章:篇 论文:篇 帽子:顶 轿子:顶 被子:床 镜子:面 旗子:面 鼓:面 墙:面 画:幅 井:口 锅:口
    人:个 苹果:个 学生:个 朋友:个 梨:个 鸡蛋:个 西瓜:个 国家:个 故事:个 问题:个 老师:位
    客人:位 医生:位 米:粒 沙子:粒 葡萄:串 种子:粒 水:滴 眼泪:滴 石头:块 手表:块 砖:块
    蛋糕:块 肥皂:块 表格:张 报纸:份 文件:份 课:节 电池:节 比赛:场 雨:场 雪:场 衣柜:个
    灯:盏 酒:瓶 啤酒:瓶 饭:碗 面条:碗 汤:碗 茶:杯 咖啡:杯 牛奶:杯 果汁:杯 眼镜:副 对联:副 风:阵
    题:道 菜:道 彩虹:道 学校:所 大学:所 楼:栋 别墅:栋 床单:条 项链:条 丝巾:条 黄河:条 鲸鱼:条
    乌龟:只 老鼠:只 蚂蚁:只 鸽子:只 小船:只 箱子:只 宝石:颗 子弹:颗 白菜心:棵 柳树:棵 台灯:盏
    气球:个 律师:位 作家:位 警察:名 记者:名 运动员:名 士兵:名 邮件:封 散文:篇 日历:本 护照:本
    字典:本 绳子:根 针:根 香蕉:根 黄瓜:根 头发:根 竹子:根 葱:根 药:片 面包:片 叶子:片 草地:片
""")

TRANSLATIONS: dict[str, str] = _table("""
    狗:dog 猫:cat 鸟:bird 鱼:fish 马:horse 牛:cow 猪:pig 羊:sheep 鸡:chicken 鸭子:duck
    老虎:tiger 狮子:lion 大象:elephant 猴子:monkey 兔子:rabbit 熊:bear 老鼠:mouse 蛇:snake
    狼:wolf 狐狸:fox 青蛙:frog 蜜蜂:bee 蚂蚁:ant 苹果:apple 香蕉:banana 橙子:orange 梨:pear
    葡萄:grape 西瓜:watermelon 桃子:peach 柠檬:lemon 草莓:strawberry 水:water 牛奶:milk
    茶:tea 咖啡:coffee 果汁:juice 米饭:rice 面包:bread 鸡蛋:egg 肉:meat 汤:soup 蛋糕:cake
    糖:sugar 盐:salt 红色:red 蓝色:blue 绿色:green 黄色:yellow 黑色:black 白色:white
    紫色:purple 粉色:pink 灰色:gray 一:one 二:two 三:three 四:four 五:five 六:six 七:seven
    八:eight 九:nine 十:ten 爸爸:father 妈妈:mother 哥哥:brother 姐姐:sister 儿子:son
    女儿:daughter 朋友:friend 老师:teacher 学生:student 医生:doctor 护士:nurse 司机:driver
    男孩:boy 女孩:girl 孩子:child 太阳:sun 月亮:moon 星星:star 天空:sky 云:cloud 雨:rain
    雪:snow 风:wind 山:mountain 河:river 海:sea 湖:lake 树:tree 花:flower 草:grass
    森林:forest 岛:island 火:fire 石头:stone 家:home 房子:house 门:door 窗户:window
    桌子:table 椅子:chair 床:bed 灯:lamp 书:book 笔:pen 铅笔:pencil 纸:paper 学校:school
    医院:hospital 银行:bank 商店:shop 公园:park 城市:city 村庄:village 路:road 桥:bridge
    汽车:car 火车:train 飞机:plane 船:ship 自行车:bicycle 公共汽车:bus 头:head 脸:face
    眼睛:eye 耳朵:ear 鼻子:nose 嘴:mouth 手:hand 脚:foot 心:heart 头发:hair 衬衫:shirt
    帽子:hat 鞋:shoe 外套:coat 裙子:skirt 钟:clock 钥匙:key 钱:money 电话:telephone
    电脑:computer 音乐:music 歌:song 电影:film 游戏:game 春天:spring 夏天:summer 秋天:autumn
    冬天:winter 今天:today 明天:tomorrow 昨天:yesterday 早晨:morning 夜晚:night 年:year
    星期:week 时间:time 名字:name 世界:world 爱:love 跑:run 走:walk 吃:eat 喝:drink
    睡觉:sleep 看:look 听:listen 说:speak 读:read 写:write 大:big 小:small 新:new 旧:old
    再见:goodbye 早上:morning 晚上:evening 手机:phone 厨房:kitchen 浴室:bathroom 卧室:bedroom
    花园:garden 农场:farm 动物:animal 植物:plant 老板:boss 工人:worker 农民:farmer 警察:police
    国王:king 王后:queen 公主:princess 英雄:hero 婴儿:baby 丈夫:husband 妻子:wife 兄弟:brother
    蔬菜:vegetable 水果:fruit 土豆:potato 西红柿:tomato 胡萝卜:carrot 洋葱:onion 苦:bitter 甜:sweet
    早餐:breakfast 午餐:lunch 晚餐:dinner 盘子:plate 杯子:cup 碗:bowl 刀:knife 瓶子:bottle 盒子:box
    包:bag 雨伞:umbrella 手表:watch 眼镜:glasses 图片:picture 照片:photo 地图:map 报纸:newspaper
    信:letter 故事:story 问题:question 答案:answer 数字:number 单词:word 语言:language 历史:history
    科学:science 数学:math 艺术:art 颜色:color 天气:weather 空气:air 土地:land 沙子:sand 冰:ice
    黄金:gold 银:silver 铁:iron 玻璃:glass 木头:wood 市场:market 机场:airport 车站:station
    旅馆:hotel 餐馆:restaurant 图书馆:library 博物馆:museum 教室:classroom 办公室:office 街道:street
    左:left 右:right 北:north 南:south 东:east 西:west 开:open 来:come 去:go 给:give 买:buy 卖:sell
    坐:sit 站:stand 学习:study 工作:work 帮助:help 玩:play 唱:sing 跳舞:dance 游泳:swim 飞:fly
    笑:laugh 哭:cry 想:think 知道:know 喜欢:like 等待:wait 打开:open 年轻:young 漂亮:beautiful
    强壮:strong 聪明:clever 干净:clean 便宜:cheap 昂贵:expensive 容易:easy 困难:difficult
    重要:important 热:hot 冷:cold 高:tall 快:fast 慢:slow 快乐:happy 悲伤:sad 谢谢:thanks 你好:hello
""")

# Short sentences of everyday life; "_" stands for a blank.
PHRASES: tuple[tuple[str, str], ...] = tuple(
    (left, right.replace("_", " "))
    for left, right in _pair_list("""
    我爱你。:I_love_you. 早上好。:Good_morning. 晚安。:Good_night. 我很好。:I_am_fine.
    你好吗？:How_are_you? 谢谢你。:Thank_you. 不客气。:You_are_welcome. 对不起。:I_am_sorry.
    请坐。:Please_sit_down. 我饿了。:I_am_hungry. 我渴了。:I_am_thirsty. 我累了。:I_am_tired.
    他是老师。:He_is_a_teacher. 她是学生。:She_is_a_student. 我是中国人。:I_am_Chinese.
    这是一本书。:This_is_a_book. 那是我的家。:That_is_my_home. 我喜欢猫。:I_like_cats.
    他喜欢狗。:He_likes_dogs. 天很蓝。:The_sky_is_blue. 今天很冷。:It_is_cold_today.
    今天很热。:It_is_hot_today. 下雨了。:It_is_raining. 下雪了。:It_is_snowing.
    我有一个梦想。:I_have_a_dream. 我不知道。:I_do_not_know. 你几岁？:How_old_are_you?
    你叫什么名字？:What_is_your_name? 现在几点？:What_time_is_it? 这是什么？:What_is_this?
    你在哪里？:Where_are_you? 我在这里。:I_am_here. 我们走吧。:Let_us_go. 等一下。:Wait_a_minute.
    帮帮我。:Help_me. 我会说中文。:I_can_speak_Chinese. 他会游泳。:He_can_swim.
    她很漂亮。:She_is_beautiful. 我很高兴。:I_am_happy. 他很忙。:He_is_busy.
    明天见。:See_you_tomorrow. 生日快乐。:Happy_birthday. 祝你好运。:Good_luck.
    新年快乐。:Happy_New_Year.
    我想喝水。:I_want_to_drink_water. 我要回家。:I_want_to_go_home. 多少钱？:How_much_is_it?
    太贵了。:It_is_too_expensive. 门开着。:The_door_is_open. 他在睡觉。:He_is_sleeping.
    她在唱歌。:She_is_singing. 我在看书。:I_am_reading_a_book. 我们是朋友。:We_are_friends.
    """)
)

# Subjects, what praises them and what blames them; any combination within a row makes sense.
SENTIMENTS: tuple[tuple[str, str, str], ...] = (
    (
        "这部电影 那部电影 这个片子 昨晚看的电影 这部电视剧 电影 这部动画片 这部纪录片",
        "很好看 非常精彩 让人感动 值得一看 拍得真好 让我大笑不止 情节紧凑 演员演得很好 结局很感人",
        "很难看 太无聊了 让人失望 不值得看 拍得很差 让我看得想睡觉 情节拖沓 演员演得很假 结局很乱",
    ),
    (
        "这家饭店的菜 这碗面 这道菜 妈妈做的汤 这里的点心 火锅 这家的饺子 外卖 蛋糕 烤鸭 味道",
        "很好吃 味道很香 让人回味无穷 非常可口 又新鲜又好吃 分量很足 一点也不油腻 吃了还想吃",
        "很难吃 味道很怪 咸得没法吃 一点也不好吃 又贵又难吃 分量太少 太油腻了 吃完肚子疼",
    ),
    (
        "这家酒店 我们住的房间 这间旅馆 海边的宾馆 民宿 房间 这家宾馆",
        "很干净 非常舒服 安静又整洁 让人很满意 下次还想来 床很软 视野很开阔 离车站很近",
        "很脏 非常吵 又小又潮湿 让人很不满意 再也不想来了 床太硬 有一股怪味 离车站太远",
    ),
    (
        "这部手机 这台电脑 新买的耳机 这台洗衣机 这个相机 键盘 充电器 这台冰箱 音箱 这个软件",
        "很好用 质量很好 用起来很方便 物超所值 性能出色 反应很快 声音很好听 用了三年还没坏",
        "很难用 质量太差 用了几天就出问题 根本不值这个价 经常出毛病 反应很慢 声音很刺耳 总是死机",
    ),
    (
        "这本书 这本小说 这篇文章 他写的故事 这本杂志 这套教材 作者的新书",
        "写得很好 很有意思 让人爱不释手 给我很多启发 内容丰富 通俗易懂 一口气就读完了",
        "写得很差 没有意思 让人读不下去 错误很多 内容空洞 枯燥乏味 读了几页就放下了",
    ),
    (
        "这里的服务 店员的态度 客服的态度 这家店的服务 服务员 前台 售后 快递员 老板",
        "很好 非常热情 让人觉得温暖 十分周到 很有耐心 回答得很详细 处理得很快",
        "很差 非常冷淡 让人很生气 十分糟糕 很不耐烦 一问三不知 拖了很久也不处理",
    ),
    (
        "这件衣服 这双鞋 这条裤子 新买的外套 裙子 这顶帽子 毛衣 书包",
        "很漂亮 穿着很舒服 做工精细 非常合身 我很喜欢 颜色很正 洗了也不变形",
        "很难看 穿着不舒服 做工粗糙 一洗就褪色 我很不喜欢 颜色不对 没穿几天就破了",
    ),
    (
        "今天的比赛 这场演出 周末的旅行 这次活动 音乐会 昨天的晚会",
        "非常精彩 让人难忘 组织得很好 大家都很开心 气氛很热烈 玩得很尽兴",
        "非常无聊 让人失望 组织得很乱 大家都很扫兴 气氛很沉闷 白白浪费了一天",
    ),
    (
        "快递 送货 物流 发货 包裹 卖家发货",
        "很快 第二天就到了 包装得很仔细 送到家门口 比预计的早",
        "太慢了 等了半个月才到 包装都破了 送错了地方 比预计的晚了很多",
    ),
    (
        "这个公园 这里的风景 海边 这座小城 环境 景区 博物馆 图书馆",
        "很美 让人心情舒畅 又安静又干净 值得再来 空气清新 适合带孩子来",
        "很脏乱 人太多了 让人后悔来这里 到处是垃圾 没什么可看的 门票太贵",
    ),
    (
        "老师 这门课 课程 培训班 教练 这位医生",
        "讲得很清楚 很有耐心 让我学到很多 很负责任 非常专业",
        "讲得很乱 没有耐心 什么也没学到 很不负责任 一点也不专业",
    ),
    (
        "价格 这个价钱 票价 这里的消费 房租",
        "很便宜 很公道 很划算 比别处低 一点也不贵",
        "太贵了 很不合理 不划算 比别处高 贵得离谱",
    ),
    (
        "孩子 我 爸妈 同事 全家人 朋友",
        "很喜欢 非常满意 用得很开心 赞不绝口 觉得很值 打算再买一个",
        "很不喜欢 非常失望 用得很生气 抱怨个不停 觉得上当了 打算退货",
    ),
)
# What can follow a sentence of either kind, and what comes alone.
PRAISE: tuple[str, ...] = tuple(
    "推荐大家来 下次还会再来 非常满意 太棒了 很值得 给五星 以后还买 强烈推荐 真不错 物有所值"
    " 没有让我失望 好极了 太喜欢了 会推荐给朋友".split()
)
BLAME: tuple[str, ...] = tuple(
    "不推荐 以后不会再来了 非常失望 太差了 不值得 给差评 以后不买了 千万别买 真糟糕 浪费钱"
    " 让我很失望 气死我了 太讨厌了 后悔死了".split()
)

# Category -> its members; no word is in two of them.
CATEGORIES: dict[str, tuple[str, ...]] = {
    name: tuple(words.split("、"))
    for name, words in _table("""
    水果:苹果、香蕉、橘子、西瓜、葡萄、桃子、梨、草莓、芒果、菠萝、樱桃、荔枝、柠檬、石榴、柿子、椰子、猕猴桃、龙眼、橙子、李子、杏子、木瓜、蓝莓、哈密瓜
    蔬菜:白菜、萝卜、土豆、茄子、黄瓜、菠菜、芹菜、南瓜、豆角、洋葱、胡萝卜、韭菜、冬瓜、苦瓜、莲藕、花菜、生菜、丝瓜、青椒、西红柿、香菜、油菜、大蒜、豌豆
    动物:老虎、狮子、大象、猴子、兔子、狐狸、熊猫、长颈鹿、斑马、河马、松鼠、狼、羊、牛、马、猫、狗、骆驼、袋鼠、猪、驴、老鼠、豹子、鹿、熊、犀牛、刺猬、羚羊
    鸟类:麻雀、燕子、老鹰、鸽子、乌鸦、喜鹊、鹦鹉、孔雀、天鹅、大雁、猫头鹰、啄木鸟、白鹤、海鸥、黄鹂、布谷鸟、画眉、鸵鸟
    昆虫:蜜蜂、蚂蚁、蝴蝶、蜻蜓、蚊子、苍蝇、蝉、蟋蟀、蝗虫、萤火虫、瓢虫、螳螂、蚕、飞蛾
    交通工具:汽车、火车、飞机、轮船、自行车、摩托车、地铁、公共汽车、卡车、出租车、高铁、马车、电动车、直升机、帆船、电车、三轮车、救护车
    颜色:红色、黄色、蓝色、绿色、白色、黑色、紫色、灰色、粉色、棕色、橙色、金色、银色、青色
    职业:医生、教师、警察、司机、厨师、律师、护士、工人、农民、记者、演员、歌手、画家、作家、科学家、消防员、法官、会计、工程师、导游、理发师、翻译、飞行员、渔民
    乐器:钢琴、吉他、小提琴、二胡、笛子、古筝、琵琶、鼓、喇叭、萨克斯、口琴、大提琴、手风琴、唢呐
    家具:桌子、椅子、沙发、床、衣柜、书架、茶几、柜子、板凳、书桌、鞋柜、梳妆台、餐桌、屏风
    运动:足球、篮球、排球、乒乓球、羽毛球、游泳、跑步、跳高、滑雪、体操、网球、跳远、拳击、举重、滑冰、射箭
    花:玫瑰、牡丹、荷花、菊花、梅花、百合、桃花、兰花、茉莉、水仙、月季、杜鹃、郁金香、向日葵
    树:松树、柳树、杨树、槐树、柏树、梧桐、银杏、枫树、桂树、榕树、桦树、杉树
    衣物:衬衫、裤子、裙子、毛衣、外套、袜子、帽子、手套、围巾、大衣、背心、西装、睡衣、领带
    文具:铅笔、钢笔、橡皮、尺子、毛笔、圆规、墨水、文具盒、练习本、粉笔、蜡笔、订书机
    电器:电视、冰箱、洗衣机、空调、电脑、电风扇、微波炉、电饭锅、吸尘器、电话、电灯、收音机
    饮料:茶、咖啡、牛奶、果汁、可乐、啤酒、豆浆、汽水、红酒、酸奶
    国家:中国、日本、美国、法国、英国、德国、俄罗斯、印度、韩国、巴西、埃及、意大利、西班牙、加拿大
    城市:北京、上海、广州、天津、重庆、南京、杭州、武汉、成都、西安、苏州、青岛、大连、厦门
    """).items()
}

# (larger, smaller, how many of the smaller make one of the larger)
UNITS: tuple[tuple[str, str, int], ...] = tuple(
    (left, right, int(count))
    for left, right, count in (
        item.split(":")
        for item in """
    米:厘米:100 米:分米:10 分米:厘米:10 厘米:毫米:10 千米:米:1000 公里:米:1000 千克:克:1000
    公斤:克:1000 公斤:斤:2 吨:千克:1000 斤:克:500 斤:两:10 小时:分钟:60 分钟:秒:60 天:小时:24
    星期:天:7 周:天:7 年:个月:12 元:角:10 元:分:100 角:分:10 升:毫升:1000
    """.split()
    )
)
MONTH_DAYS: tuple[int, ...] = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
SEASONS: tuple[str, ...] = tuple("冬冬春春春夏夏夏秋秋秋冬")  # of the months

# What the stories of sums are about; all stand in MEASURES.
THINGS: tuple[str, ...] = tuple(
    "苹果 梨 鸡蛋 西瓜 香蕉 黄瓜 糖 蛋糕 面包 书 字典 日记 杂志 铅笔 钢笔 毛笔 蜡烛"
    " 邮票 照片 票 纸 气球 花 玫瑰 蘑菇 珍珠 宝石 石头 汽车 卡车"
    " 自行车 衣服 毛衣 礼物 帽子 钥匙 椅子 桌子 兔子 鸡 鸭 羊 鱼".split()
)

NAMES: tuple[str, ...] = tuple(
    "小明 小红 小刚 小丽 小华 小强 小芳 小军 小兰 小东 小美 小林 小雪 小龙 小杰 小云".split()
)
PERIODIC_CHARACTERS: str = (
    "红蓝黄绿黑白紫灰猫狗鸡鸭牛羊马鱼花草树木山水风雨日月星云上下左右大小高低男女"
)
CYCLES: dict[str, tuple[str, ...]] = {
    "weekdays": tuple("星期" + day for day in "一二三四五六日"),
    "weekdays_short": tuple("周" + day for day in "一二三四五六日"),
    "months": tuple(month + "月" for month in "一 二 三 四 五 六 七 八 九 十 十一 十二".split()),
    "months_digits": tuple(f"{month}月" for month in range(1, 13)),
    "seasons": tuple("春夏秋冬"),
    "zodiac": tuple("鼠牛虎兔龙蛇马羊猴鸡狗猪"),
}
RUNS: dict[str, tuple[str, ...]] = {
    "stems": tuple("甲乙丙丁戊己庚辛壬癸"),
    "branches": tuple("子丑寅卯辰巳午未申酉戌亥"),
    "lower": tuple("abcdefghijklmnopqrstuvwxyz"),
    "upper": tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ"),
    "ordinals": tuple("第" + number for number in "一二三四五六七八九十"),
}
